"""Gathers what the screen shows: collects, scores and draws, and fits where nothing was fitted yet."""

from __future__ import annotations

import contextlib

from sweepctl.collect import fits
from sweepctl.collect.tables import collect
from sweepctl.errors import RequestError
from sweepctl.predict.stage import Scored, score
from sweepctl.report.picture import Subject, draw_fit
from sweepctl.report.screen import Findings
from sweepctl.store.board import Board
from sweepctl.store.workspace import Sweep


def gather(sweep: Sweep) -> Findings:
    """Collect the sweep, take the fits that were kept (or make them), score its predictions, draw the fit."""
    plans = sweep.plans()
    frames = collect(Board(sweep, plans))
    runs = frames["runs"]
    made = fits.kept(sweep)
    if not made:
        with contextlib.suppress(RequestError):
            made, _ = fits.fit_all(lambda law: fits.sweep_observations(plans, frames, law), {})
        for one in made.values():
            fits.save(sweep, one)
    try:
        scores: dict[str, list[Scored]] = score(sweep)
    except RequestError:
        scores = {}
    files = ["runs.parquet", "curves.parquet", "attempts.parquet"]
    files += [f"fits/{name}.json" for name in made]
    if "parametric" in made:
        accounting = next(iter(plans.values())).accounting
        subject = Subject(
            name=sweep.name,
            runs=runs,
            n_column=f"n_{accounting.parameters}",
            flops_column=f"flops_{accounting.flops}",
            law=made["parametric"],
            minima=made.get("isoflop"),
            scored=[s for rows in scores.values() for s in rows],
        )
        draw_fit(sweep.folder / "fit.png", subject)
        files.append("fit.png")
    return Findings(sweep, plans, runs, made, scores, files)
