"""Fit without the largest budgets or sizes, predict them, and say how far off that is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.law import CannotFit, Fit, Law, Observations
from sweepctl.laws.shared.levels import levels

TOLERANCE = 0.1
"""Values of a role within this share of each other are one level."""


def hold_out(
    law: Law, data: Observations, options: Any, role: str, count: int, rolling: bool
) -> list[dict[str, Any]]:
    """Predicted against measured losses of the rows in the `count` highest levels of a role.

    With `rolling`, every level is predicted from those below it, as far down as the law can be fitted. Each
    row: what it was fitted below, where it is, `predicted`, `measured` and `error` (their ratio minus one).

    Raises:
        CannotFit: fewer levels than that, the rest does not carry the law, or the law predicts the least
            loss of a budget and not flops are held out.
    """
    if law.held_out == "best" and role != "flops":
        raise CannotFit(
            f"{law.name} predicts the least loss at a budget, so only whole budgets can be held out: flops=K."
        )
    place = levels(data[role], TOLERANCE)
    top = int(place.max()) + 1
    if top <= count:
        raise CannotFit(f"{count} of {role} cannot be held out: there are {top} levels.")
    found = _check(law, data, options, role, place, top - count, top)
    if rolling:
        for level in range(top - count - 1, 0, -1):
            try:
                found += _check(law, data, options, role, place, level, level + 1)
            except CannotFit:
                break
    return found


def _check(
    law: Law, data: Observations, options: Any, role: str, place: NDArray[np.int64], low: int, high: int
) -> list[dict[str, Any]]:
    made = law.fit(data.take(np.flatnonzero(place < low)), options)
    held = np.flatnonzero((place >= low) & (place < high))
    if law.held_out == "best":
        held = np.array([min(held[place[held] == k], key=lambda i: data.loss[i]) for k in range(low, high)])
    below = float(data[role][place < low].max())
    return [_row(law, made, data, int(i), {"role": role, "fitted_up_to": below}) for i in held]


def _row(law: Law, made: Fit, data: Observations, i: int, told: dict[str, Any]) -> dict[str, Any]:
    roles = next(r for r in law.targets if all(role in data.columns for role in r))
    at = {role: float(data[role][i]) for role in roles}
    predicted, measured = float(law.predict(made, at)["loss"].value), float(data.loss[i])
    if not np.isfinite(predicted):
        raise CannotFit("what is left of the rows does not identify the law at those that are held out.")
    error = predicted / measured - 1
    return {
        **told, "row": data.rows[i], "at": at, "predicted": predicted, "measured": measured, "error": error
    }  # fmt: skip
