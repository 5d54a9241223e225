"""What the screen of a sweep shows: its plans, runs and fits, what was predicted of it, and a picture."""

from __future__ import annotations

import pandas as pd

from sweepctl.errors import RequestError
from sweepctl.laws.fit import Fit
from sweepctl.plan.plan import Plan
from sweepctl.predict.carried import probed
from sweepctl.predict.stage import Scored, score
from sweepctl.report.picture import FitPicture, draw_fit
from sweepctl.report.screen import Findings
from sweepctl.store.workspace import Sweep


def gather(
    sweep: Sweep, plans: dict[str, Plan], runs: pd.DataFrame, fits: dict[str, Fit], seams: dict[str, int]
) -> Findings:
    """Score what was predicted of a sweep, and draw its fit."""
    try:
        scores: dict[str, list[Scored]] = score(sweep)
    except RequestError:
        scores = {}
    files = ["runs.parquet", "curves.parquet", "attempts.parquet"]
    files += [f"fits/{name}.json" for name in fits]
    if "parametric" in fits:
        accounting = next(iter(plans.values())).accounting
        isoflop = fits.get("isoflop")
        picture = FitPicture(
            name=sweep.name,
            runs=runs,
            n_column=f"n_{accounting.parameters}",
            law=fits["parametric"],
            # one of an early version holds its minima only
            isoflop=isoflop if isoflop and "budgets" in isoflop.details else None,
            scored=[s for rows in scores.values() for s in rows],
        )
        draw_fit(sweep.results / "fit.png", picture)
        files.append("fit.png")
    carried = probed(sweep, plans)
    return Findings(sweep, plans, runs, fits, scores, files, seams, carried)
