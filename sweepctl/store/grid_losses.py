"""The losses of a grid over one of its axes, as far as they are there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sweepctl.errors import RequestError
from sweepctl.plan.plan import Plan
from sweepctl.store.state import outcome
from sweepctl.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class GridLosses:
    """What was measured of one axis of a stage at one rung, at the most tokens."""

    by_seed: dict[Any, dict[str, float]]
    """Value -> seed -> loss in nats at the best of the other axes; infinite where it diverged."""
    best_over: tuple[str, ...]
    """Those other axes."""
    tokens: int
    """Of its longest budget."""
    missing: int
    """Runs that are not there."""
    wanted: int
    """Runs in all."""

    def means(self) -> dict[Any, float]:
        """Value -> its mean over seeds, of those without a run that diverged."""
        means = {value: fmean(seeds.values()) for value, seeds in self.by_seed.items()}
        return {value: mean for value, mean in means.items() if math.isfinite(mean)}


def grid_losses(workspace: Workspace, plan: Plan, path: str, rung: int = 0) -> GridLosses:
    """The losses over the axis `path` at a place of `plan.rungs`.

    Raises:
        RequestError: it is no axis of that stage.
    """
    jobs = [job for job in plan.observations() if plan.points[job.point].rung == rung]
    most = max(map(plan.tokens, jobs), default=0)
    runs: dict[Any, dict[str, dict[str, float]]] = {}
    best_over: set[str] = set()
    missing = wanted = 0
    for job in jobs:
        settings = plan.points[job.point].settings
        if path not in settings:
            raise RequestError(f"stages.*.take.{path}: stage {plan.stage} does not vary {path}.")
        if plan.tokens(job) < 0.99 * most:  # batch sizes round a budget differently
            continue
        wanted += 1
        seed = repr({k: v for k, v in settings.items() if k.startswith("seed.")})
        others = {k: v for k, v in settings.items() if k != path and not k.startswith("seed.")}
        best_over |= set(others) - {*plan.scaling.fields, "warmup_steps"}  # those follow from others
        result = outcome(workspace.job(job.id), workspace.job(job.trunk) if job.trunk else None, job.cut)
        if result is None:
            missing += 1
        else:
            loss = plan.validation.loss(result.loss_nats)
            loss = math.inf if loss is None else loss
            runs.setdefault(settings[path], {}).setdefault(repr(others), {})[seed] = loss
    best = {value: min(by.values(), key=lambda seeds: fmean(seeds.values())) for value, by in runs.items()}
    return GridLosses(best, tuple(sorted(best_over)), most, missing, wanted)
