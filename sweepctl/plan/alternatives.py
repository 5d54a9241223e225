"""What the budgets of a study cost under each schedule: which share a trunk, and what that saves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

from sweepctl.plan.cost import Cost
from sweepctl.plan.plan import Plan
from sweepctl.spec.schedules.schedule import Schedule
from sweepctl.spec.science import trunk_id, with_field


@dataclass(frozen=True, slots=True)
class Alternative:
    """The budgets under one schedule."""

    schedule: Schedule
    """With the study's settings where it has them."""
    own: bool
    """Whether the study has it; its cost then is the plan's own."""
    cost: Cost
    """Of all budgets."""


@dataclass(slots=True)
class _Point:
    """One rung with its settings: the steps at which its budgets end, and what a step costs."""

    warmup: int
    tokens_per_step: int
    flops_per_step: float
    exact_per_step: float
    ends: set[int] = field(default_factory=set)


def alternatives(plans: Iterable[Plan], cost: Cost) -> list[Alternative]:
    """The distinct budgets of these plans under every kind of schedule.

    `cost` is what the plans cost as they are. Points that differ in fields of their schedule are one point
    here. Nothing is expanded again.
    """
    plans = list(plans)
    points = _points(plans)
    planned = plans[0].schedule
    own = {point.settings.get("schedule.kind", plan.schedule.kind) for plan in plans for point in plan.points}
    compared = []
    for kind in Schedule.kinds():
        if own == {kind} == {planned.kind}:
            compared.append(Alternative(planned, True, cost))
        else:
            schedule = with_field(planned, planned.by, kind).with_fork(True)
            compared.append(Alternative(schedule, kind in own, _cost(schedule, points)))
    return compared


def _points(plans: list[Plan]) -> list[_Point]:
    """What is trained, whatever the schedule: told apart by the trunk of a schedule that forks."""
    points: dict[str, _Point] = {}
    for plan in plans:
        by_index: dict[int, _Point] = {}
        for job in plan.observations():
            if job.point not in by_index:
                key = job.trunk
                if key is None or plan.points[job.point].cycles is not None:
                    key = trunk_id(dataclasses.replace(plan.point(job.point), cycles=None))
                if key not in points:
                    counts, batch = plan.counts(job), plan.batch_tokens(job)
                    points[key] = _Point(
                        int(plan.points[job.point].settings.get("warmup_steps", plan.base.warmup_steps)),
                        batch,
                        float(batch) * counts.flops_per_token(plan.accounting),
                        float(batch) * counts.exact_flops_per_token,
                    )
                by_index[job.point] = points[key]
            by_index[job.point].ends.add(job.end)
    return list(points.values())


def _cost(schedule: Schedule, points: list[_Point]) -> Cost:
    jobs = observations = tokens = scratch = 0
    flops = exact = 0.0
    for point in points:
        steps = schedule.steps_trained(point.warmup, point.ends)
        jobs += len(point.ends) + schedule.forks
        observations += len(point.ends)
        tokens += steps * point.tokens_per_step
        scratch += sum(point.ends) * point.tokens_per_step
        flops += steps * point.flops_per_step
        exact += steps * point.exact_per_step
    return Cost(jobs, observations, tokens, scratch, flops, exact)
