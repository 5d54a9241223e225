"""Values that come from results: the setting of an earlier stage with the least loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sweepctl.errors import RequestError
from sweepctl.plan.optimum import optimum
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
    """The value with the least loss at the most tokens: by seed, the best over other axes."""
    if len(plan.rungs) > 1:
        raise RequestError(
            f"stages.*.take.{path}: stage {plan.stage} has {len(plan.rungs)} rungs, which may have different "
            "optima; take from a stage with one."
        )
    most = max((plan.tokens(job) for job in plan.observations()), default=0)
    runs: dict[Any, dict[str, dict[str, float]]] = {}
    best_over: set[str] = set()
    missing = wanted = 0
    for job in plan.observations():
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
            loss = math.inf if loss is None else loss  # it diverged
            runs.setdefault(settings[path], {}).setdefault(repr(others), {})[seed] = loss
    if missing:
        return MissingResults(plan.stage, path, missing, wanted)
    best = {value: min(by.values(), key=lambda seeds: fmean(seeds.values())) for value, by in runs.items()}
    means = {value: fmean(seeds.values()) for value, seeds in best.items()}
    losses = {value: mean for value, mean in means.items() if math.isfinite(mean)}
    if not losses:
        raise RequestError(
            f"No run of stage {plan.stage} has a loss: all diverged; widen its grid of {path}."
        )
    lowest = optimum(best)
    parabola = rule.rule == "parabola" and lowest.bend is not None
    value = lowest.value if parabola else min(losses, key=lambda v: losses[v])
    shown = {repr(v): loss for v, loss in losses.items()}
    name = "parabola" if parabola else "argmin"
    return Taken(path, value, plan.stage, name, plan.hash, shown, lowest, tuple(sorted(best_over)))
