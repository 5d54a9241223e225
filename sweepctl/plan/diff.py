"""What changed between two plans of a stage, and which field changed it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from sweepctl.plan.plan import Job, Plan
from sweepctl.spec.build import plain


@dataclass(frozen=True, slots=True)
class Change:
    """A field that differs."""

    field: str
    """Its dotted name."""
    old: Any
    """The value before."""
    new: Any
    """The value now."""
    jobs: int
    """How many have a new id for it."""


@dataclass(frozen=True, slots=True)
class Diff:
    """A new plan against the one before."""

    kept: int
    """Jobs in both."""
    added: int
    """Jobs at a place that is new."""
    changed: int
    """Jobs at an old place with a new id."""
    changes: tuple[Change, ...]
    """Why."""
    gone: tuple[str, ...]
    """Ids that the new plan has not."""


def diff(old: Plan, new: Plan) -> Diff:
    """Jobs are matched by their place in the study: rung, grid settings, kind and budget."""
    before, after = {job.id for job in old.jobs}, {job.id for job in new.jobs}
    gone = tuple(job.id for job in old.jobs if job.id not in after)
    if not gone:
        return Diff(len(before & after), len(after - before), 0, (), ())
    places = {_place(old, job): job for job in old.jobs if job.id not in after}
    reasons: Counter[tuple[str, str, str]] = Counter()
    values: dict[tuple[str, str, str], tuple[Any, Any]] = {}
    of_points: dict[tuple[int, int], list[tuple[str, Any, Any]]] = {}
    added = changed = 0
    for job in new.jobs:
        if job.id in before:
            continue
        match = places.get(_place(new, job))
        if match is None:
            added += 1
            continue
        changed += 1
        points = (match.point, job.point)
        if points not in of_points:
            of_points[points] = _fields_that_differ(old.point(match.point), new.point(job.point))
        of_anneal = _fields_that_differ(old.anneal(match), new.anneal(job), "anneal")
        for name, was, now in of_points[points] + of_anneal:
            reason = (name, repr(was), repr(now))
            reasons[reason] += 1
            values[reason] = (was, now)
    changes = tuple(Change(key[0], *values[key], count) for key, count in reasons.most_common())
    return Diff(len(before & after), added, changed, changes, gone)


def _place(plan: Plan, job: Job) -> tuple[Any, ...]:
    point = plan.points[job.point]
    settings = point.settings.without(plan.scaling.fields).items()
    return (
        plan.rungs[point.rung].index,
        tuple(sorted(settings, key=repr)),
        job.kind,
        job.label,
    )


def _fields_that_differ(a: Any, b: Any, under: str = "") -> list[tuple[str, Any, Any]]:
    """Fields of two dataclasses of one kind that differ, by dotted name; of others, the whole value."""
    if a == b:
        return []
    if not (is_dataclass(a) and type(a) is type(b)):
        return [(under, plain(a), plain(b))]
    pairs = ((f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return [
        difference
        for name, was, now in pairs
        for difference in _fields_that_differ(was, now, f"{under}.{name}" if under else name)
    ]
