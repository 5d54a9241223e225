"""The runs of a table of loss curves: their paths, which of their points are fitted, which are predicted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.curve import schedules
from sweepctl.laws.curve.forms import Design
from sweepctl.laws.curve.schedules import Falls, RatePath
from sweepctl.laws.observations import CannotFit, Excluded, Floats, Observations

ABSENT = ("", "nan", "none", "<na>")
"""What a column of names holds where a run has no parent."""


@dataclass(frozen=True)
class Run:
    """One run, or what is predicted of one."""

    name: str
    """As the table names it."""
    path: RatePath
    """Its learning rates."""
    target: bool
    """Whether it is only predicted."""
    rows: NDArray[np.int64]
    """Of the table that have a loss and count, in order of steps [points]."""
    steps: Floats
    """At the rows [points]."""
    loss: Floats
    """At the rows [points]."""


def runs(data: Observations, options: Any) -> tuple[list[Run], Observations, list[str]]:
    """The runs, the table with what was left out, and flags.

    Raises:
        CannotFit: no learning rates, more than one size N, roles that are neither fit nor target, or nothing
            to fit.
    """
    _refuse(data)
    paths, flags = _paths(data, options)
    roles = data.labels.get("role", ("fit",) * len(data))
    measured = np.isfinite(data.loss)
    all_runs, gone = [], np.full(len(data), "", dtype=object)
    for name, rows in data.groups("run").items():
        order = rows[np.argsort(data["step"][rows], kind="stable")]
        points = order[measured[order]]
        target = len(points) == 0 or any(roles[i] == "target" for i in order)
        path = paths[name]
        early = path.places(data["step"][points]) < (path.warm if options.skip is None else 0)
        if options.skip is not None:
            early = data["step"][points] <= options.skip
        gone[points[early]] = "measured during warmup" if options.skip is None else "skipped"
        points = points[~early]
        if not target and options.every > 1:
            between = np.arange(len(points)) % options.every > 0
            gone[points[between]] = f"not every {options.every}th point of its run"
            points = points[~between]
        all_runs.append(Run(name, path, target, points, data["step"][points], data.loss[points]))
    all_runs = _hold_out(all_runs, options.hold_out, set(data.labels.get("parent", ())))
    for run in all_runs:
        if run.target:
            gone[run.rows] = "its run is predicted, not fitted"
    excluded = tuple(Excluded(data.rows[i], str(gone[i])) for i in np.flatnonzero((gone != "") & measured))
    used = np.concatenate([run.rows for run in all_runs if not run.target] or [np.empty(0, dtype=np.int64)])
    kept = dataclasses.replace(data.take(used), excluded=(*data.excluded, *excluded))
    if not len(kept):
        raise CannotFit("No run has a loss that is to be fitted: every one is a target or has no loss.")
    return all_runs, kept, flags


def _refuse(data: Observations) -> None:
    if "n" in data.columns and len(np.unique(data.n)) > 1:
        sizes = len(np.unique(data.n))
        raise CannotFit(
            f"These curves are of {sizes} sizes N, and the law is of one; choose one, such as with "
            "--where \"rung == '...'\"."
        )
    for role in sorted(set(data.labels.get("role", ())) - {"fit", "target"}):
        raise CannotFit(f"role must be fit or target in every row; {role!r} is neither.")
    bad = np.isfinite(data.loss) & (data.loss <= 0)
    if bad.any():
        raise CannotFit(f"loss must be above 0; in row {data.rows[int(np.argmax(bad))]} it is 0.")


def _paths(data: Observations, options: Any) -> tuple[dict[str, RatePath], list[str]]:
    """Every run's path, those of parents first."""
    groups = data.groups("run")
    parents = {name: _parent(data, rows, groups) for name, rows in groups.items()}
    paths: dict[str, RatePath] = {}
    flags: set[str] = set()
    waiting = list(groups)
    while waiting:
        ready = [name for name in waiting if parents[name] is None or parents[name] in paths]
        if not ready:
            raise CannotFit(f"The runs {', '.join(waiting[:3])} are each other's parents.")
        for name in ready:
            rows = groups[name]
            rates, steps = data["lr"][rows], data["step"][rows]
            there = np.isfinite(rates)
            if not there.any() or rates[there].max() <= 0:
                raise CannotFit(f"Run {name} has no learning rate above 0.")
            parent = parents[name]
            before = paths[parent] if parent is not None else None
            last = int(np.rint(steps.max()))
            paths[name] = schedules.path(steps[there], rates[there], last, before, options.warmup)
            assumed = before is None and options.warmup is None
            if assumed and steps[there].min() > 0.02 * last:
                flags.add("path_assumed")
        waiting = [name for name in waiting if name not in paths]
    return paths, sorted(flags)


def _parent(data: Observations, rows: NDArray[np.int64], groups: dict[str, NDArray[np.int64]]) -> str | None:
    if "parent" not in data.labels:
        return None
    names = {data.label("parent")[i] for i in rows}
    parents = {name for name in names if name.lower() not in ABSENT}
    own = data.label("run")[int(rows[0])]
    if len(parents) > 1:
        raise CannotFit(f"Run {own} has {len(parents)} parents: {', '.join(sorted(parents)[:3])}.")
    parent = next(iter(parents - {own}), None)
    if parent is not None and parent not in groups:
        raise CannotFit(f"Run {own} was cut from {parent}, which has no rows here.")
    return parent


def _hold_out(all_runs: list[Run], count: int, parents: set[str]) -> list[Run]:
    """The same with the `count` fitted runs that end last turned into targets; trunks that others were cut
    from stay."""
    leaves = [run for run in all_runs if not run.target and run.name not in parents]
    leaves.sort(key=lambda run: run.path.last)
    if (count and count >= sum(not run.target for run in all_runs)) or count > len(leaves):
        raise CannotFit(f"{count} runs cannot be held out: {len(leaves)} could be.")
    chosen = {run.name for run in leaves[len(leaves) - count :]}
    return [dataclasses.replace(run, target=True) if run.name in chosen else run for run in all_runs]


@dataclass(frozen=True)
class Sums:
    """How S1, S2 and falls are taken of a path: the options that say so."""

    warmup: str
    """How updates of the warmup count."""
    rise_counts: bool
    """Whether the rise of warmup is a fall below 0."""
    momentum: float
    """How fast a fall is forgotten in S2."""
    multipower: bool
    """Whether falls are taken one by one."""

    def design(self, parts: list[tuple[RatePath, Floats]], bins: int) -> Design:
        """What the forms see of points at steps [points] of paths, one after another."""
        s1, s2, falls, offset = [], [], [], 0
        for path, steps in parts:
            places = path.places(steps)
            sums, fallen = np.cumsum(schedules.counted(path, self.warmup)), self.fallen(path)
            s1.append(sums[places])
            s2.append(schedules.annealing(fallen, self.momentum)[places])
            if self.multipower:
                gathered = schedules.gather(path, fallen, sums, places, bins)
                falls.append(dataclasses.replace(gathered, point=gathered.point + offset))
            offset += len(places)
        whole = None
        if self.multipower:
            whole = Falls(*(np.concatenate([getattr(f, k) for f in falls]) for k in Falls.__annotations__))
        return Design(np.concatenate(s1), np.concatenate(s2), whole)

    def fallen(self, path: RatePath) -> Floats:
        return schedules.falls(path, self.rise_counts)
