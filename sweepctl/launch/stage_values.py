"""Values that come from results: the setting of an earlier stage with the least loss."""

from __future__ import annotations

from dataclasses import dataclass

from sweepctl.errors import RequestError
from sweepctl.plan.optimum import optimum
from sweepctl.plan.plan import Plan, Taken
from sweepctl.spec.study import Study, Take
from sweepctl.store.grid_losses import grid_losses
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
    measured = grid_losses(workspace, plan, path)
    if measured.missing:
        return MissingResults(plan.stage, path, measured.missing, measured.wanted)
    losses = measured.means()
    if not losses:
        raise RequestError(
            f"No run of stage {plan.stage} has a loss: all diverged; widen its grid of {path}."
        )
    lowest = optimum(measured.by_seed)
    parabola = rule.rule == "parabola" and lowest.bend is not None
    return Taken(
        field=path,
        value=lowest.value if parabola else min(losses, key=lambda v: losses[v]),
        stage=plan.stage,
        rule="parabola" if parabola else "argmin",
        plan=plan.hash,
        losses={repr(v): loss for v, loss in losses.items()},
        optimum=lowest,
        best_over=measured.best_over,
        factors=rule.factors,
        carried=next((taken.value for taken in plan.taken if taken.field == path), None),
    )
