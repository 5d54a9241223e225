"""Values that come from results: the setting of an earlier stage with the lowest loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sweepctl.errors import RequestError
from sweepctl.plan.plan import Plan, Taken
from sweepctl.spec.study import Study, Take
from sweepctl.store.state import outcome
from sweepctl.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class MissingResults:
    """A stage whose values cannot be taken yet."""

    stage: str
    """The stage that the value is taken from."""
    field: str
    """The field that it is a value of."""
    missing: int
    """Runs of that stage that are not there."""
    wanted: int
    """Runs that the value is taken from; 0 where they are not planned yet."""


def stage_values(
    workspace: Workspace, study: Study, stage: str, plans: dict[str, Plan]
) -> list[Taken] | MissingResults:
    """The values that a stage takes from earlier ones, or which of them is not there yet.

    Raises:
        RequestError: every run of the earlier stage diverged, or the field is not an axis there.
    """
    taken = []
    for path, rule in study.all_stages[stage].take.items():
        plan = plans.get(rule.stage)
        if plan is None:
            return MissingResults(rule.stage, path, 0, 0)
        value = _choose(workspace, plan, path, rule)
        if isinstance(value, MissingResults):
            return value
        taken.append(value)
    return taken


def _choose(workspace: Workspace, plan: Plan, path: str, rule: Take) -> Taken | MissingResults:
    """The value with the lowest loss at the most tokens: the mean over seeds, the best over other axes."""
    if len(plan.rungs) > 1:
        raise RequestError(
            f"stages.*.take.{path}: stage {plan.stage} has {len(plan.rungs)} rungs, which may have different "
            "optima; take from a stage with one."
        )
    most = max((plan.tokens(job) for job in plan.observations()), default=0)
    runs: dict[Any, dict[str, list[float]]] = {}
    missing = wanted = 0
    for job in plan.observations():
        settings = plan.points[job.point].settings
        if path not in settings:
            raise RequestError(f"stages.*.take.{path}: stage {plan.stage} does not vary {path}.")
        if plan.tokens(job) < 0.99 * most:  # batch sizes round a budget differently
            continue
        wanted += 1
        others = repr({k: v for k, v in settings.items() if k != path and not k.startswith("seed.")})
        result = outcome(workspace.job(job.id), workspace.job(job.trunk) if job.trunk else None, job.cut)
        if result is None:
            missing += 1
        else:
            loss = plan.validation.loss(result.loss_nats)
            loss = math.inf if loss is None else loss  # it diverged
            runs.setdefault(settings[path], {}).setdefault(others, []).append(loss)
    means = {value: min(fmean(seeds) for seeds in by.values()) for value, by in runs.items()}
    losses = {value: mean for value, mean in means.items() if math.isfinite(mean)}
    if missing:
        return MissingResults(plan.stage, path, missing, wanted)
    if not losses:
        raise RequestError(
            f"No run of stage {plan.stage} has a loss: all diverged; widen its grid of {path}."
        )
    value = min(losses, key=lambda v: losses[v])
    if rule.rule == "parabola":
        if not all(isinstance(v, (int, float)) and v > 0 for v in losses):
            raise RequestError(f"stages.*.take.{path}: a parabola needs numbers above 0; use rule argmin.")
        value = parabola_minimum(losses)
    shown = {repr(v): loss for v, loss in losses.items()}
    return Taken(path, value, plan.stage, rule.rule, plan.hash, shown)


def parabola_minimum(losses: dict[float, float]) -> float:
    """The vertex of the parabola through the lowest loss and its two neighbours, over the logarithm of the
    value; the lowest value itself where it lies at an edge of the grid."""
    values = sorted(losses)
    best = min(range(len(values)), key=lambda i: losses[values[i]])
    if best in (0, len(values) - 1):
        return values[best]
    x = [math.log(v) for v in values[best - 1 : best + 2]]
    y = [losses[v] for v in values[best - 1 : best + 2]]
    slope_low, slope_high = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    curvature = (slope_high - slope_low) / (x[2] - x[0])
    return math.exp((x[0] + x[1]) / 2 - slope_low / (2 * curvature))
