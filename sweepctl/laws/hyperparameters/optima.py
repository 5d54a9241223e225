"""Where a hyperparameter was best: near-optimal runs, the best run, or the vertex of a parabola, a cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sweepctl.laws.numerics.rounding import above_rounding
from sweepctl.laws.observations import Floats, Observations
from sweepctl.laws.shared.cells import Cell, Indices, center

MIN_POINTS = 3


@dataclass(frozen=True)
class OptimumSearch:
    """How optima are looked for (the options of the same names)."""

    optimum: Literal["near", "argmin", "quadratic"]
    """What an optimum is."""
    threshold: float
    """Near: loss / least loss - 1 stays below this."""
    window: float
    """The same, for the points of a parabola."""
    slices: Literal["best", "each"]
    """Of which other hyperparameter a parabola is."""


@dataclass(frozen=True)
class Optima:
    """The optima of one hyperparameter."""

    value: Floats
    """Its best values [points]."""
    cell: Indices
    """Of which cell each is [points]."""
    rows: tuple[Indices, ...]
    """Of the data that each stands on: one, or of a vertex all that its parabola went through."""


def swept(data: Observations, cell: Cell, role: str) -> bool:
    """Whether a cell has the hyperparameter at two values."""
    return len(np.unique(data[role][cell.rows])) > 1


def at_edge(data: Observations, cell: Cell, role: str) -> bool:
    """Whether the best run of a cell has the least or the greatest value that was tried."""
    values = data[role][cell.rows]
    best = values[np.argmin(data.loss[cell.rows])]
    return bool(best == values.min() or best == values.max())


def excess(loss: Floats) -> Floats:
    """By what share each loss lies above the least."""
    return np.asarray(loss / loss.min() - 1)


def optima(data: Observations, cells: list[Cell], role: str, other: str | None, how: OptimumSearch) -> Optima:
    """The optima of `role` in the cells where it was swept. `other` is the other hyperparameter, if it is
    there: parabolas are fitted where it is held fixed."""
    points: list[tuple[float, int, Indices]] = []
    for number, cell in enumerate(cells):
        if not swept(data, cell, role):
            continue
        if how.optimum == "quadratic":
            points += [(value, number, rows) for value, rows in _vertices(data, cell, role, other, how)]
        else:
            over = excess(data.loss[cell.rows])
            near = over < how.threshold if how.optimum == "near" else np.arange(len(over)) == np.argmin(over)
            points += [(float(data[role][i]), number, np.array([i])) for i in cell.rows[near]]
    return Optima(
        np.array([value for value, _, _ in points], dtype=np.float64),
        np.array([number for _, number, _ in points], dtype=np.int64),
        tuple(rows for _, _, rows in points),
    )


def _vertices(
    data: Observations, cell: Cell, role: str, other: str | None, how: OptimumSearch
) -> list[tuple[float, Indices]]:
    """Learning rates: the vertex at the batch of the best run, or at each batch. Batches: the vertex of the
    parabola through the least losses at each batch. Nothing where a vertex was not measured."""
    rows = cell.rows
    if at_edge(data, cell, role):
        return []
    if other is None or not swept(data, cell, other):
        bottom = vertex(data[role][rows], data.loss[rows], how.window)
        return [(bottom[0], rows)] if bottom else []
    if role == "lr":
        best = data[other][rows[np.argmin(data.loss[rows])]]
        fixed = np.unique(data[other][rows]) if how.slices == "each" else [best]
        vertices = []
        for value in fixed:
            part = rows[data[other][rows] == value]
            bottom = vertex(data[role][part], data.loss[part], how.window)
            vertices += [(bottom[0], part)] if bottom else []
        return vertices
    bottoms = []
    for value in np.unique(data[role][rows]):
        part = rows[data[role][rows] == value]
        bottom = vertex(data[other][part], data.loss[part], how.window)
        bottoms += [(value, bottom[1])] if bottom else []
    if not bottoms:
        return []
    values, losses = np.array(bottoms).T
    bottom = vertex(values, losses, how.window)
    return [(bottom[0], rows)] if bottom else []


def vertex(values: Floats, loss: Floats, window: float) -> tuple[float, float] | None:
    """The value and the loss at the bottom of the parabola of loss over log value, through the points within
    the window above the least loss; None where fewer than three values are, where it opens downwards, or
    where its bottom lies outside the values tried."""
    inside = excess(loss) < window
    middle = np.log(center(values))
    x, y = np.log(values[inside]) - middle, loss[inside]
    if len(np.unique(x)) < MIN_POINTS:
        return None
    bend, tilt, level = np.polyfit(x, y, 2)
    if not above_rounding(bend * np.ptp(x) ** 2, y.max()):
        return None
    at = -tilt / (2 * bend)
    if not np.log(values.min()) <= at + middle <= np.log(values.max()):
        return None
    return float(np.exp(at + middle)), float(level - tilt**2 / (4 * bend))
