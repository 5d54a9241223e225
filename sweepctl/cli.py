"""The commands: each finds its input, calls one function, and shows what came back.

Imports of anything slow (Hydra, pandas, torch) happen inside the commands that need them, so that
`--help` and `status` answer at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from sweepctl import __version__
from sweepctl.errors import RequestError, SweepctlError

if TYPE_CHECKING:
    from sweepctl.launch.retry import Retry
    from sweepctl.spec.slurm import SlurmLauncher
    from sweepctl.store.board import Board

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Plan, train, fit and predict LLM scaling sweeps: one trunk, many budgets.",
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare token shards.")
app.add_typer(data_app, name="data")

Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides: key=value, group=option.")]
SweepName = Annotated[str, typer.Argument(help="A sweep of the workspace.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
ConfigDir = Annotated[
    Path | None, typer.Option(help="A directory of your own Hydra groups, ahead of the built-in ones.")
]


def main() -> None:
    """Run a command; every foreseen error is one sentence and its exit code."""
    try:
        app()
    except SweepctlError as error:
        print(f"sweepctl: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"sweepctl: {where}{error.strerror or error}.", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _positive(option: str, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise RequestError(f"{option} {value:g} is not valid: it must be a finite number above 0.")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"sweepctl {__version__}")
        raise typer.Exit


@app.command()
def plan(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    flops_per_s: Annotated[
        float | None, typer.Option(help="State one device's training FLOP/s instead of measuring it.")
    ] = None,
    cfg: Annotated[
        bool, typer.Option("--cfg", help="Print the composed study as YAML; plan nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compose a study, expand it, show what it costs and what exists, and write the plan.

    `sweepctl plan` alone plans study=demo; study=NAME picks another, name=NAME names the sweep.
    """
    from sweepctl.data.corpora import ensure
    from sweepctl.data.shards import check_context
    from sweepctl.launch.compare import compare
    from sweepctl.launch.stages import plan_stages
    from sweepctl.launch.throughput import Rate, measured
    from sweepctl.plan.expand import CorpusFacts
    from sweepctl.report.console import console, place, show_json
    from sweepctl.report.plan import plan_json, show_plan
    from sweepctl.spec.build import plain
    from sweepctl.spec.compose import as_yaml, compose_study
    from sweepctl.store.workspace import Workspace

    _positive("--flops-per-s", flops_per_s)
    study = compose_study(overrides or [], config_dir)
    if cfg:
        show_json(plain(study)) if as_json else print(as_yaml(study), end="")
        return
    workspace = Workspace.default()
    index = ensure(workspace, study.data)
    check_context(workspace.corpus(study.data.name), index, study.batch.context)
    corpus = CorpusFacts(index.hash, index.vocab_size, index.splits["train"].tokens)
    plans, waiting = plan_stages(workspace, study, corpus)
    sweep = workspace.sweep(study.name)
    compared = {stage: compare(sweep, one) for stage, one in plans.items()}
    if flops_per_s is not None:
        rungs = {rung.name for one in plans.values() for rung in one.rungs}
        throughput = dict.fromkeys(rungs, Rate(flops_per_s))
        provenance = f"at the stated {flops_per_s:.3g} FLOP/s"
    else:
        throughput, provenance = measured(workspace, plans), "as this sweep's attempts measured it"
    sweep.save(plans, waiting)
    if as_json:
        show_json({"sweep": study.name, **plan_json(plans, compared, waiting, throughput)})
        return
    out = console()
    show_plan(out, plans, compared, waiting, throughput, provenance)
    out.print(
        f"Written to {place(sweep.folder)}. Next: [bold]sweepctl launch {study.name}[/]", soft_wrap=True
    )


@app.command()
def launch(
    sweep: SweepName,
    overrides: Overrides = None,
    on: Annotated[str, typer.Option(help="Which machine: a file of launchers/.")] = "local",
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    retry: Annotated[
        list[str] | None, typer.Option(help="failed (the default), diverged, none, or a job (repeatable).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Show what would be trained or submitted; do nothing.")
    ] = False,
    config_dir: ConfigDir = None,
    as_json: AsJson = False,
) -> None:
    """Train what the sweep's plans want and the store lacks. Asking twice trains nothing twice."""
    from sweepctl.launch.local import LocalLaunch
    from sweepctl.launch.prepare import launchable
    from sweepctl.launch.retry import choose
    from sweepctl.report.console import console, show_json
    from sweepctl.report.launch_view import LaunchView, launch_json, show_outcome, show_todo
    from sweepctl.spec.compose import compose_launcher
    from sweepctl.spec.slurm import SlurmLauncher, read_launcher
    from sweepctl.store.workspace import Workspace

    known = Workspace.default().known_sweep(sweep)
    config = read_launcher(on, compose_launcher(on, overrides or [], config_dir))
    board, held = launchable(known, stage)
    again = choose(board, retry or ["failed"])
    out = console()
    if isinstance(config, SlurmLauncher):
        _launch_on_slurm(board, held, again, config, dry_run, as_json)
        return
    if dry_run:
        show_json(launch_json(board, held)) if as_json else show_todo(out, board, held)
        return
    known.uncancel()
    again.apply()
    with LaunchView(board, out if not as_json else None) as view:
        report = LocalLaunch(board, config, view, again.left).run()
    show_json(launch_json(board, held, report)) if as_json else show_outcome(out, board, held, report)
    if report.stopped:
        raise SystemExit(130)
    if report.failed or report.blocked:
        raise SystemExit(1)


def _launch_on_slurm(
    board: Board, held: list[str], again: Retry, launcher: SlurmLauncher, dry_run: bool, as_json: bool
) -> None:
    """Submit what has no task yet, and return."""
    from sweepctl.launch.slurm import front
    from sweepctl.report import slurm as view
    from sweepctl.report.console import console, show_json

    order = front.order(board, held, again, launcher)
    if dry_run:
        planned, found = front.rehearse(board, order)
        show_json(view.rehearsal_json(planned, found)) if as_json else view.show_rehearsal(
            console(), board, planned, found
        )
        return
    done = front.launch(board, order, again)
    show_json(view.dispatched_json(board, held, done)) if as_json else view.show_dispatched(
        console(), board, held, done
    )


@app.command()
def doctor(
    overrides: Overrides = None,
    on: Annotated[str, typer.Option(help="Which machine: a file of launchers/.")] = "slurm",
    job: Annotated[
        bool, typer.Option("--job/--no-job", help="Send a short job that looks around on a node.")
    ] = True,
    wait_min: Annotated[float, typer.Option(help="How long that job may wait in the queue.")] = 5.0,
    config_dir: ConfigDir = None,
    as_json: AsJson = False,
) -> None:
    """Check what usually goes wrong before a launch: commands, limits, disk, and a node from inside."""
    from sweepctl.launch.doctor import examine_local
    from sweepctl.launch.slurm.doctor import examine_slurm
    from sweepctl.report.console import console, show_json
    from sweepctl.report.doctor import DoctorView, findings_json
    from sweepctl.spec.compose import compose_launcher
    from sweepctl.spec.slurm import SlurmLauncher, read_launcher
    from sweepctl.store.workspace import Workspace

    _positive("--wait-min", wait_min)
    config = read_launcher(on, compose_launcher(on, overrides or [], config_dir))
    workspace = Workspace.default()
    view = DoctorView(None if as_json else console())
    findings = []
    try:
        for finding in (
            examine_slurm(workspace, config, view.say, job, wait_min)
            if isinstance(config, SlurmLauncher)
            else examine_local(workspace, config)
        ):
            findings.append(finding)
            view.show(finding)
    finally:
        view.close()
    show_json(findings_json(findings)) if as_json else view.end(findings)
    if any(finding.verdict == "failed" for finding in findings):
        raise SystemExit(1)


def _is_number(word: str) -> bool:
    with contextlib.suppress(ValueError):
        float(word)
        return True
    return False


class _Watched(TyperCommand):
    """Lets --watch stand without its number, which typer cannot declare."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        if "--watch" in given:
            after = given.index("--watch") + 1
            if not (given[after : after + 1] and _is_number(given[after])):
                given.insert(after, "5")
        return super().parse_args(ctx, given)


@app.command(cls=_Watched)
def status(
    sweep: SweepName,
    watch: Annotated[
        float | None, typer.Option(metavar="[SECONDS]", help="Look again and again, by default every 5 s.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Where every job stands, how far the sweep is, what is wrong. Changes nothing."""
    from sweepctl.launch.slurm.reading import status as read_status
    from sweepctl.report.console import console, show_json
    from sweepctl.report.status import show_status, status_json, watch_status
    from sweepctl.store.board import Board
    from sweepctl.store.workspace import Workspace

    _positive("--watch", watch)
    if watch is not None and as_json:
        raise RequestError("--watch shows screen after screen and --json one document; ask for one of them.")
    known = Workspace.default().known_sweep(sweep)
    if watch is not None:
        watch_status(console(), lambda: read_status(Board(known, known.plans())), watch)
        return
    found = read_status(Board(known, known.plans()))
    show_json(status_json(found)) if as_json else show_status(console(), found)


@app.command()
def logs(
    sweep: SweepName,
    job: Annotated[str, typer.Argument(help="A job's id, or the beginning of one.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it goes on.")] = False,
    attempt: Annotated[int | None, typer.Option(help="This attempt, instead of the newest.")] = None,
    process: Annotated[bool, typer.Option("--process", help="What its process wrote to its log.")] = False,
    as_json: AsJson = False,
) -> None:
    """The story of one job: who tried it when, how its losses went, why it ended. Changes nothing."""
    from sweepctl.launch.logs import find_job, read_story
    from sweepctl.report.console import console, show_json
    from sweepctl.report.logs import follow_job, show_process, show_story, story_json
    from sweepctl.store.board import Board
    from sweepctl.store.workspace import Workspace

    known = Workspace.default().known_sweep(sweep)
    board = Board(known, known.plans())
    entry = find_job(board, job)
    if as_json:
        if follow or process:
            raise RequestError("--json prints attempts as they are now; -f and --process print text.")
        show_json(story_json(read_story(board, entry, attempt)))
    elif follow:
        follow_job(console(), board, entry, attempt, process)
    elif process:
        show_process(console(), read_story(board, entry, attempt))
    else:
        show_story(console(), read_story(board, entry, attempt))


@app.command()
def collect(
    sweep: SweepName,
    csv: Annotated[bool, typer.Option("--csv", help="Write CSV too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read the store into runs, curves and attempts: Parquet tables beside the plans."""
    from sweepctl.collect.tables import collect as collect_tables
    from sweepctl.report.console import console, many, place, show_json
    from sweepctl.store.board import Board
    from sweepctl.store.workspace import Workspace

    known = Workspace.default().known_sweep(sweep)
    frames = collect_tables(Board(known, known.plans()), csv)
    states = frames["runs"]["state"].value_counts().to_dict()
    if as_json:
        rows = {name: len(frame) for name, frame in frames.items()}
        show_json({"sweep": sweep, "folder": str(known.folder), "rows": rows, "runs": states})
        return
    told = ", ".join(f"{number} {state}" for state, number in states.items())
    console().print(
        f"{many(len(frames['runs']), 'observation')} ({told}) in {place(known.folder / 'runs.parquet')}"
    )


@app.command()
def fit(
    source: Annotated[str, typer.Argument(help="A sweep, or a CSV or Parquet table.")],
    law: Annotated[str, typer.Option(help="parametric, isoflop, or all.")] = "all",
    option: Annotated[list[str] | None, typer.Option(help="key=value of the law (repeatable).")] = None,
    where: Annotated[str | None, typer.Option(help="A pandas query that rows must meet.")] = None,
    n: Annotated[str, typer.Option(help="Column of parameters, for a table.")] = "n",
    d: Annotated[str, typer.Option(help="Column of tokens, for a table.")] = "d",
    flops: Annotated[str | None, typer.Option(help="Column of FLOPs, for a table; else 6 N D.")] = None,
    loss: Annotated[str, typer.Option(help="Column of losses in nats, for a table.")] = "loss",
    as_json: AsJson = False,
) -> None:
    """Fit scaling laws, with intervals, to a sweep's results or to a table."""
    from sweepctl.collect import fits, observations
    from sweepctl.collect.tables import collect as collect_tables
    from sweepctl.report.console import console, show_json
    from sweepctl.report.fit import fit_json, show_fit
    from sweepctl.store.board import Board
    from sweepctl.store.workspace import Workspace

    options = fits.read_options(option or [])
    if law != "all":
        fits.law(law)
    known = None
    if "." in source or "/" in source:
        frame = observations.select(observations.read_table(Path(source)), where)
        columns = observations.Columns(n, d, flops, loss)
        data = observations.observations(frame, columns, {"parameters": n, "flops": flops or "six_n"})
    else:
        if (n, d, flops, loss) != ("n", "d", None, "loss"):
            raise RequestError(f"--n, --d, --flops and --loss name a table's columns; {source} is a sweep.")
        known = Workspace.default().known_sweep(source)
        plans = known.plans()
        runs = observations.select(collect_tables(Board(known, plans))["runs"], where)
        data = fits.sweep_observations(plans, runs)
    if law == "all":
        made, refused = fits.fit_all(data, options)
        if not made:
            raise RequestError(" ".join(refused.values()))
    else:
        made, refused = {law: fits.fit(law, data, options)}, {}
    for one in made.values():
        one.protocol["where"] = where
        if known is not None:
            fits.save(known, one)
    if as_json:
        shown = {name: fit_json(one) for name, one in made.items()}
        show_json({**shown, "refused": refused} if law == "all" else shown[law])
        return
    for one in made.values():
        show_fit(console(), one)
    for name, reason in refused.items():
        console().print(f"no {name} law: {reason}")


@app.command()
def predict(
    sweep: SweepName,
    flops: Annotated[float | None, typer.Option(help="A compute budget C, for its optimal run.")] = None,
    n: Annotated[float | None, typer.Option(help="Parameters, together with --d.")] = None,
    d: Annotated[float | None, typer.Option(help="Tokens, together with --n.")] = None,
    stage: Annotated[str | None, typer.Option(help="Predict a planned stage before it starts.")] = None,
    post_hoc: Annotated[bool, typer.Option(help="Predict a stage although it has begun.")] = False,
    score: Annotated[bool, typer.Option(help="Hold predictions against what was measured.")] = False,
    flops_per_s: Annotated[
        float | None, typer.Option(help="State one device's training FLOP/s instead of measuring it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What to expect of a run that does not exist yet, with its interval, written down before it does."""
    from sweepctl.collect import fits
    from sweepctl.predict.recipe import predict_target
    from sweepctl.predict.stage import predict_stage
    from sweepctl.predict.stage import score as score_stages
    from sweepctl.report import fit as view
    from sweepctl.report.console import console, show_json
    from sweepctl.store.workspace import Workspace

    _positive("--flops-per-s", flops_per_s)
    if sum((score, stage is not None and not score, (flops, n, d) != (None, None, None))) > 1:
        raise RequestError("A stage, a score and a target are three requests; make them one by one.")
    known = Workspace.default().known_sweep(sweep)
    out = console()
    if score:
        scores = score_stages(known, stage)
        show_json(view.score_json(scores)) if as_json else view.show_score(out, scores)
    elif stage is not None:
        prediction, new = predict_stage(known, stage, fits.load(known, "parametric"), post_hoc)
        show_json(prediction) if as_json else view.show_prediction(out, prediction, new)
    else:
        made = fits.load(known, "parametric")
        found = predict_target(known, made, flops, n, d, flops_per_s)
        show_json(view.recipe_json(found, made)) if as_json else view.show_recipe(out, found, made)


@app.command()
def report(sweep: SweepName, as_json: AsJson = False) -> None:
    """The whole sweep on one screen, and a picture of its fit."""
    from sweepctl.report.console import console, show_json
    from sweepctl.report.findings import gather
    from sweepctl.report.screen import screen_json, show_screen
    from sweepctl.store.workspace import Workspace

    found = gather(Workspace.default().known_sweep(sweep))
    show_json(screen_json(found)) if as_json else show_screen(console(), found)


@app.command()
def cancel(
    sweep: SweepName,
    job: Annotated[list[str] | None, typer.Option(help="Only this job (repeatable).")] = None,
    as_json: AsJson = False,
) -> None:
    """Stop the sweep's unfinished jobs, sparing what another sweep wants. `launch` takes them up again."""
    from sweepctl.launch.cancel import cancel as cancel_jobs
    from sweepctl.report.console import console, many, show_json
    from sweepctl.store.board import Board
    from sweepctl.store.workspace import Workspace

    known = Workspace.default().known_sweep(sweep)
    done = cancel_jobs(Board(known, known.plans()), job)
    if as_json:
        show_json({"cancelled": done.cancelled, "spared": done.spared})
        return
    spared = f"; {len(done.spared)} spared, another sweep wants them" if done.spared else ""
    console().print(f"{many(len(done.cancelled), 'job')} cancelled{spared}. Their checkpoints stay.")


@app.command()
def clean(
    sweep: SweepName,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    keep: Annotated[str, typer.Option(help="Checkpoints of finished jobs: none, last or all.")] = "all",
    as_json: AsJson = False,
) -> None:
    """Delete what this sweep once wanted and no plan wants any more. Shows it first."""
    from sweepctl.launch.clean import delete, find
    from sweepctl.report.clean import clean_json, show_clean
    from sweepctl.report.console import console, show_json
    from sweepctl.store.workspace import Workspace

    known = Workspace.default().known_sweep(sweep)
    found = find(known, keep)
    if as_json:
        show_json(clean_json(found, deleted=yes))
    else:
        show_clean(console(), found)
        if found.empty:
            return
        if not yes and not (sys.stdin.isatty() and typer.confirm("Delete these?")):
            console().print("Nothing deleted; --yes deletes.")
            return
        yes = True
    if yes:
        delete(known, found)


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="The corpus: data.name of a study.")],
    source: Annotated[
        str, typer.Option(help="text, jsonl, parquet, flat, or a built-in one: pysrc, synthetic.")
    ] = "text",
    train: Annotated[list[Path] | None, typer.Option(help="Files or folders (repeatable).")] = None,
    validation: Annotated[list[Path] | None, typer.Option(help="Held-out files, for flat.")] = None,
    field: Annotated[str, typer.Option(help="Field or column of the text.")] = "text",
    tokenizer: Annotated[str, typer.Option(help="bytes, or a tokenizers JSON file.")] = "bytes",
    validation_share: Annotated[float, typer.Option(help="Share of documents held out.")] = 0.01,
    dtype: Annotated[str, typer.Option(help="Of flat files: uint8, uint16 or uint32.")] = "uint16",
    vocab_size: Annotated[int | None, typer.Option(help="Of flat files.")] = None,
    as_json: AsJson = False,
) -> None:
    """Turn text into memory-mapped token shards with an index, a held-out split and hashes."""
    from sweepctl.data.command import Request, prepare_from
    from sweepctl.report.console import console, count, place, show_json
    from sweepctl.spec.build import plain
    from sweepctl.store.workspace import Workspace

    request = Request(
        name, source, tuple(train or ()), tuple(validation or ()), field, tokenizer,
        validation_share, dtype, vocab_size,
    )  # fmt: skip
    workspace = Workspace.default()
    out = console()
    index = prepare_from(workspace, request, out if not as_json else None)
    if as_json:
        show_json(plain(index))
        return
    for split, facts in index.splits.items():
        out.print(f"{split}: {count(facts.tokens)} tokens in {len(facts.shards)} shards")
    out.print(f"{index.hash}  {place(workspace.corpus(name))}")
