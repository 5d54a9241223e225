"""Commands on results: tables, laws, predictions, the report."""

from __future__ import annotations

from typing import Annotated

import typer

from sweepctl.cli.app import AsJson, OutFolder, SweepName, app, positive
from sweepctl.errors import RequestError


@app.command()
def collect(
    sweep: SweepName,
    csv: Annotated[bool, typer.Option("--csv", help="Write CSV too.")] = False,
    out: OutFolder = None,
    as_json: AsJson = False,
) -> None:
    """Read the store into runs, curves and attempts: Parquet tables beside the plans."""
    from sweepctl.collect.tables import collect as collect_tables
    from sweepctl.report.console import console, many, place, show_json
    from sweepctl.report.seams import seams_of, show_seams
    from sweepctl.store.sweep_jobs import SweepJobs
    from sweepctl.store.workspace import Workspace

    the_sweep = Workspace.default().read_sweep(sweep, out)
    frames = collect_tables(SweepJobs(the_sweep, the_sweep.plans()), csv)
    states = frames["runs"]["state"].value_counts().to_dict()
    mixed = seams_of(frames["attempts"])
    if as_json:
        rows = {name: len(frame) for name, frame in frames.items()}
        show_json(
            {"sweep": sweep, "folder": str(the_sweep.results), "rows": rows, "runs": states, "mixed": mixed}
        )
        return
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    table = place(the_sweep.results / "runs.parquet")
    console().print(f"{many(len(frames['runs']), 'observation')} ({counts}) in {table}")
    show_seams(console(), mixed)


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
    from sweepctl.fitting.saved import load
    from sweepctl.predict.recipe import predict_target
    from sweepctl.predict.stage import predict_stage
    from sweepctl.predict.stage import score as score_stages
    from sweepctl.report import fit as view
    from sweepctl.report.console import console, show_json
    from sweepctl.store.workspace import Workspace

    positive("--flops-per-s", flops_per_s)
    if sum((score, stage is not None and not score, (flops, n, d) != (None, None, None))) > 1:
        raise RequestError("A stage, a score and a target are three requests; make them one by one.")
    the_sweep = Workspace.default().known_sweep(sweep)
    out = console()
    if score:
        scores = score_stages(the_sweep, stage)
        show_json(view.score_json(scores)) if as_json else view.show_score(out, scores)
    elif stage is not None:
        law = load(the_sweep, "parametric")
        prediction, new = predict_stage(the_sweep, stage, law, post_hoc)
        show_json(prediction.record()) if as_json else view.show_prediction(out, prediction, new, law)
    else:
        law = load(the_sweep, "parametric")
        recipe = predict_target(the_sweep, law, flops, n, d, flops_per_s)
        show_json(view.recipe_json(recipe, law)) if as_json else view.show_recipe(out, recipe, law)


@app.command()
def report(sweep: SweepName, out: OutFolder = None, as_json: AsJson = False) -> None:
    """The whole sweep on one screen, and a picture of its fit."""
    from sweepctl.collect.tables import collect as collect_tables
    from sweepctl.fitting.saved import kept_or_fitted
    from sweepctl.report.console import console, show_json
    from sweepctl.report.findings import gather
    from sweepctl.report.screen import screen_json, show_screen
    from sweepctl.report.seams import seams_of
    from sweepctl.store.sweep_jobs import SweepJobs
    from sweepctl.store.workspace import Workspace

    the_sweep = Workspace.default().read_sweep(sweep, out)
    plans = the_sweep.plans()
    frames = collect_tables(SweepJobs(the_sweep, plans))
    fits = kept_or_fitted(the_sweep, plans, frames)
    findings = gather(the_sweep, plans, frames["runs"], fits, seams_of(frames["attempts"]))
    show_json(screen_json(findings)) if as_json else show_screen(console(), findings)
