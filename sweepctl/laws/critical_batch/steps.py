"""Steps to a target loss against batch, log S = log(a + b / B), by an exact profile; many copies at once.

Given r = b / a the level log a is a mean, so that one variable, log r, is searched: on a grid, then by
golden section.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.observations import Floats

REACH = np.log(1e4)
"""How far beyond the batches tried b / a is looked for."""
GRID = 160
GOLDEN = (np.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class StepsFits:
    """Fits of copies, [copies] each."""

    level: Floats
    """log a."""
    ratio: Floats
    """log(b / a)."""
    objective: Floats
    """At the minimum."""
    bound: NDArray[np.int64]
    """-1 where b is 0, 1 where a is."""


def fit_steps(log_batch: Floats, log_steps: Floats, delta: float | None) -> StepsFits:
    """Fit each row of log_steps [copies, points] at log_batch [points].

    Least squares of the logarithm, or the sum of Huber losses of it with this `delta`.
    """
    low, high = log_batch.min() - REACH, log_batch.max() + REACH
    grid = np.linspace(low, high, GRID)
    best = _on_grid(grid, log_batch, log_steps, delta).argmin(axis=1)
    left, right = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, GRID - 1)]
    ratio = _golden(left, right, log_batch, log_steps, delta)
    value, level = _value(ratio, log_batch, log_steps, delta)
    bound = np.where(ratio < low + 0.5, -1, np.where(ratio > high - 0.5, 1, 0))
    return StepsFits(level, ratio, value, bound)


def log_steps_at(log_batch: Floats, level: Floats, ratio: Floats) -> Floats:
    """log S [copies, points] at log_batch [points] for log a and log(b / a) [copies]."""
    return np.asarray(level[:, None] + np.logaddexp(0.0, ratio[:, None] - log_batch))


def _on_grid(grid: Floats, log_batch: Floats, log_steps: Floats, delta: float | None) -> Floats:
    """The objective of every copy at every ratio: [copies, grid]. Of squares, by one matrix product."""
    if delta is not None:
        return np.stack(
            [_value(np.full(len(log_steps), at), log_batch, log_steps, delta)[0] for at in grid], axis=1
        )
    shape = np.logaddexp(0.0, grid[:, None] - log_batch)
    shape = shape - shape.mean(axis=1, keepdims=True)
    return np.asarray(np.sum(shape**2, axis=1) - 2 * log_steps @ shape.T)


def _golden(left: Floats, right: Floats, log_batch: Floats, log_steps: Floats, delta: float | None) -> Floats:
    left, right = left.copy(), right.copy()
    for _ in range(60):
        lower, upper = right - GOLDEN * (right - left), left + GOLDEN * (right - left)
        down = _value(lower, log_batch, log_steps, delta)[0] < _value(upper, log_batch, log_steps, delta)[0]
        left, right = np.where(down, left, lower), np.where(down, upper, right)
    return np.asarray((left + right) / 2)


def _value(ratio: Floats, log_batch: Floats, log_steps: Floats, delta: float | None) -> tuple[Floats, Floats]:
    """The objective with the level solved for, and the level: [copies]."""
    rest = log_steps - np.logaddexp(0.0, ratio[:, None] - log_batch)
    level = rest.mean(axis=1)
    if delta is None:
        return np.sum((rest - level[:, None]) ** 2, axis=1), level
    level = np.median(rest, axis=1)
    for _ in range(30):  # weights of the Huber loss; converges from the median
        size = np.abs(rest - level[:, None])
        weights = delta / np.maximum(size, delta)
        level = (weights * rest).sum(axis=1) / weights.sum(axis=1)
    size = np.abs(rest - level[:, None])
    return np.sum(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)), axis=1), level
