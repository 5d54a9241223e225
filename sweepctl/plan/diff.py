"""What changed between two plans of a stage, and which field changed it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sweepctl.plan.plan import Job, Plan
from sweepctl.spec.build import plain


@dataclass(frozen=True, slots=True)
class Change:
    """A field that differs: its old and new value, and how many jobs have a new id for it."""

    field: str
    old: Any
    new: Any
    jobs: int


@dataclass(frozen=True, slots=True)
class Diff:
    """A new plan against the one before: jobs in both, jobs at a new place, and why others changed."""

    kept: int
    added: int
    changed: int
    changes: tuple[Change, ...]
    gone: tuple[str, ...]


def diff(old: Plan, new: Plan) -> Diff:
    """Jobs are matched by their place in the study: rung, grid settings, kind and budget."""
    before, after = {job.id for job in old.jobs}, {job.id for job in new.jobs}
    gone = tuple(job.id for job in old.jobs if job.id not in after)
    if not gone:
        return Diff(len(before & after), len(after - before), 0, (), ())
    places = {_place(old, job): job for job in old.jobs if job.id not in after}
    reasons: Counter[tuple[str, str, str]] = Counter()
    values: dict[tuple[str, str, str], tuple[Any, Any]] = {}
    added = changed = 0
    for job in new.jobs:
        if job.id in before:
            continue
        match = places.get(_place(new, job))
        if match is None:
            added += 1
            continue
        changed += 1
        for name, was, now in _fields_that_differ(old, match, new, job):
            reason = (name, repr(was), repr(now))
            reasons[reason] += 1
            values[reason] = (was, now)
    changes = tuple(Change(key[0], *values[key], count) for key, count in reasons.most_common())
    return Diff(len(before & after), added, changed, changes, gone)


def _place(plan: Plan, job: Job) -> tuple[Any, ...]:
    point = plan.points[job.point]
    return (
        plan.rungs[point.rung].index,
        tuple(sorted(point.settings.items(), key=repr)),
        job.kind,
        job.label,
    )


def _fields_that_differ(old: Plan, was: Job, new: Plan, now: Job) -> list[tuple[str, Any, Any]]:
    a, b = _flat(old, was), _flat(new, now)
    return [(name, a.get(name), b.get(name)) for name in sorted({*a, *b}) if a.get(name) != b.get(name)]


def _flat(plan: Plan, job: Job) -> dict[str, Any]:
    science = {"point": plain(plan.point(job.point)), "anneal": plain(plan.anneal(job))}
    found: dict[str, Any] = {}
    _flatten("", science["point"], found)
    if science["anneal"]:
        _flatten("anneal", science["anneal"], found)
    return found


def _flatten(prefix: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _flatten(f"{prefix}.{name}" if prefix else name, item, found)
    else:
        found[prefix] = value
