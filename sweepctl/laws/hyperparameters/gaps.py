"""What a rule for learning rate and batch would have cost: the loss at its setting above the least of the
cell, by linear interpolation over a triangulation of the cell's runs in log2 of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import QhullError

from sweepctl.laws.hyperparameters.optima import swept
from sweepctl.laws.observations import Floats, Observations
from sweepctl.laws.shared.cells import Cell, center

Rule = tuple[float, Mapping[str, float]]
"""A factor, and the exponent of each predictor."""

PUBLISHED: dict[str, dict[str, Rule]] = {
    "stepfun": {"lr": (1.79, {"n": -0.713, "d": 0.307}), "batch": (0.58, {"d": 0.571})},
    "deepseek": {"lr": (0.3118, {"flops": -0.1250}), "batch": (0.2920, {"flops": 0.3271})},
}
"""Rules as printed; batch in tokens. Li et al. 2025 (arXiv 2503.04715), equation 1: N without embeddings.
DeepSeek-AI 2024 (arXiv 2401.02954), section 3.1: C counts the non-embedding FLOPs a token times D."""


def gap(data: Observations, cell: Cell, settings: Mapping[str, Floats]) -> Floats:
    """Loss at each setting over the least loss of the cell, minus one: [settings].

    settings: lr, batch or both -> [settings]; where only one is set, the other is at its best. NaN where a
    setting lies outside the runs of the cell.
    """
    loss = data.loss[cell.rows]
    tried = {role: np.log2(data[role][cell.rows]) for role in settings}
    wanted = {role: np.log2(values) for role, values in settings.items()}
    if len(settings) == 1:
        (role,) = settings
        losses = _line(tried[role], loss, wanted[role])
    else:
        try:
            surface = LinearNDInterpolator(np.stack([tried["batch"], tried["lr"]], axis=1), loss)
        except QhullError:  # the runs lie on one line
            return np.full(len(wanted["lr"]), np.nan)
        losses = surface(wanted["batch"], wanted["lr"])
    return np.asarray(losses / loss.min() - 1, dtype=np.float64)


def judged(data: Observations, cells: list[Cell], roles: Sequence[str], name: str) -> Floats:
    """The gap of a published rule in every cell [cells]; NaN where it cannot be told."""
    gaps = np.full(len(cells), np.nan)
    for number, cell in enumerate(cells):
        settings = {}
        for role in roles:
            factor, exponents = PUBLISHED[name][role]
            powers = [center(data[predictor][cell.rows]) ** power for predictor, power in exponents.items()]
            settings[role] = np.array([factor * np.prod(powers)])
        if all(swept(data, cell, role) for role in roles):
            gaps[number] = gap(data, cell, settings)[0]
    return gaps


def _line(x: Floats, y: Floats, at: Floats) -> Floats:
    """Linear interpolation between the least y at each x; NaN outside."""
    points, place = np.unique(x, return_inverse=True)
    least = np.full(len(points), np.inf)
    np.minimum.at(least, place, y)
    return np.asarray(np.interp(at, points, least, left=np.nan, right=np.nan))
