"""Commands on results: tables, laws, predictions, the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweepctl.cli.app import AsJson, SweepName, app, positive
from sweepctl.errors import RequestError


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

    positive("--flops-per-s", flops_per_s)
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
