"""Fit without the largest budgets or sizes, predict them, and say how far off that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.law import CannotFit, Fit, Law, Observations
from sweepctl.laws.shared.levels import levels

TOLERANCE = 0.1
"""Values of a role within this share of each other are one level."""


@dataclass(frozen=True, slots=True)
class HoldOut:
    """What is held out."""

    role: str
    """The role whose highest levels are left out: flops, n or d."""
    count: int
    """How many of its levels."""
    rolling: bool = False
    """Whether every level below is predicted too, each from what is smaller."""


def hold_out(law: Law, data: Observations, options: Any, what: HoldOut) -> list[dict[str, Any]]:
    """Predicted against measured losses of the rows that are held out.

    With `rolling`, every level is predicted from those below it, as far down as the law can be fitted. Each
    row: what it was fitted below, where it is, `predicted`, `measured` and `error` (their ratio minus one).

    Raises:
        CannotFit: fewer levels than that, the rest does not carry the law, or the law predicts the least
            loss of a budget and not flops are held out.
    """
    if law.held_out == "best" and what.role != "flops":
        raise CannotFit(
            f"{law.name} predicts the least loss at a budget, so only whole budgets can be held out: flops=K."
        )
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


def _predicted(
    law: Law, data: Observations, options: Any, role: str, place: NDArray[np.int64], low: int, high: int
) -> list[dict[str, Any]]:
    """The rows of the levels from `low` to below `high`, predicted from the levels below."""
    fit = law.fit(data.take(np.flatnonzero(place < low)), options)
    held = np.flatnonzero((place >= low) & (place < high))
    if law.held_out == "best":
        held = np.array([min(held[place[held] == k], key=lambda i: data.loss[i]) for k in range(low, high)])
    below = float(data[role][place < low].max())
    return [_row(law, fit, data, int(i), {"role": role, "fitted_up_to": below}) for i in held]


def _row(law: Law, fit: Fit, data: Observations, i: int, where: dict[str, Any]) -> dict[str, Any]:
    roles = next(r for r in law.targets if all(role in data.columns for role in r))
    at = {role: float(data[role][i]) for role in roles}
    predicted, measured = float(law.predict(fit, at)["loss"].value), float(data.loss[i])
    if not np.isfinite(predicted):
        raise CannotFit("what is left of the rows does not identify the law at those that are held out.")
    error = predicted / measured - 1
    return {
        **where, "row": data.rows[i], "at": at, "predicted": predicted, "measured": measured, "error": error
    }  # fmt: skip
