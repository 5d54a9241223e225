"""Fit without the largest budgets or sizes, predict them, and say how far off that is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.fit import NO_INTERVAL, Fit, HeldOutRow, Prediction, Target
from sweepctl.laws.law import Law, Resampling
from sweepctl.laws.observations import CannotFit, Observations
from sweepctl.laws.shared.levels import levels
from sweepctl.laws.shared.new_run import WIDE

TOLERANCE = 0.1
"""Values of a role within this share of each other are one level."""
LEAST_LEVELS = 3
"""Levels below one that is to be predicted with an interval: of fewer nothing says how sizes scatter."""
MOST_LEVELS = 4
"""Levels of such a record."""


@dataclass(frozen=True, slots=True)
class HoldOut:
    """What is held out."""

    role: str
    """The role whose highest levels are left out: flops, n or d."""
    count: int
    """How many of its levels."""
    rolling: bool = False
    """Whether every level below is predicted too, each from what is smaller."""


def hold_out(law: Law, data: Observations, options: Any, what: HoldOut) -> list[HeldOutRow]:
    """The rows that are held out, each with the loss that the law of the rest predicts and the measured one.

    With `rolling`, every level is predicted from those below it, as far down as the law can be fitted.

    Raises:
        CannotFit: fewer levels than that, the rest does not carry the law, or the law predicts the least
            loss of a budget and not flops are held out.
    """
    if law.held_out == "best" and what.role != "flops":
        raise CannotFit(
            f"{law.name} predicts the least loss at a budget, so only whole budgets can be held out: flops=K."
        )
    if law.held_out == "row":  # a row that the law leaves out, such as one that another of its budget beats
        data = _stood_on(data, law.fit(data, options))
    place = levels(data[what.role], TOLERANCE)
    top = int(place.max()) + 1
    if top <= what.count:
        raise CannotFit(f"{what.count} of {what.role} cannot be held out: there are {top} levels.")
    rows = _predicted(law, data, options, what.role, place, top - what.count, top)
    if what.rolling:
        for level in range(top - what.count - 1, 0, -1):
            try:
                rows += _predicted(law, data, options, what.role, place, level, level + 1)
            except CannotFit:
                break
    return rows


def _stood_on(data: Observations, fit: Fit) -> Observations:
    """The rows that the fit stands on."""
    used = set(fit.rows_used)
    return data.take([i for i, row in enumerate(data.rows) if row in used])


def _predicted(
    law: Law, data: Observations, options: Any, role: str, place: NDArray[np.int64], low: int, high: int,
    recorded: bool = True,
) -> list[HeldOutRow]:  # fmt: skip
    """The rows of the levels from `low` to below `high`, predicted from the levels below; with intervals that
    the record of the latter scales, where it is `recorded`."""
    smaller = data.take(np.flatnonzero(place < low))
    fit = law.fit(smaller, options)
    if recorded:
        fit.backtests = backtest(law, smaller, options, fit)
    held = np.flatnonzero((place >= low) & (place < high))
    if law.held_out == "best":
        held = np.array([min(held[place[held] == k], key=lambda i: data.loss[i]) for k in range(low, high)])
    below = float(data[role][place < low].max())
    roles = next(r for r in law.targets if all(role in data.columns for role in r))
    rows = []
    for i in held:
        at = Target({role: float(data[role][i]) for role in roles})
        loss = law.predict(fit, at)["loss"]
        if not np.isfinite(loss.value):
            raise CannotFit("what is left of the rows does not identify the law at those that are held out.")
        interval, expected = NO_INTERVAL, 0.0
        if low >= LEAST_LEVELS and isinstance(loss, Prediction) and loss.parts is not None:
            interval, expected = loss.run_interval, loss.parts.half / WIDE
        measured = float(data.loss[i])
        rows.append(
            HeldOutRow(role, below, data.rows[i], at, float(loss.value), measured, interval, expected)
        )
    return rows


def backtest(law: Law, data: Observations, options: Resampling, fit: Fit) -> list[HeldOutRow]:
    """A fit's own record: of the rows that it stands on each of the largest sizes (of a law of compute:
    budgets), as many as half of them and MOST_LEVELS at most, predicted from those below, LEAST_LEVELS at
    least."""
    data = _stood_on(data, fit)
    if "loss" not in law.needs or law.held_out == "none":
        return []
    role = "n" if any("n" in roles for roles in law.targets) and "n" in data else "flops"
    if role not in data:
        return []
    place = levels(data[role], TOLERANCE)
    top = int(place.max()) + 1
    rows: list[HeldOutRow] = []
    bare = replace(options, replicates=0)
    for level in range(top - 1, max(LEAST_LEVELS, top - min(MOST_LEVELS, top // 2)) - 1, -1):
        try:
            rows += _predicted(law, data, bare, role, place, level, level + 1, False)
        except CannotFit:
            break
    return rows
