"""Least squares with one non-linear parameter, many at once: for each value of it the others are linear, so a
search in one dimension finds the least (variable projection, Golub and Pereyra 1973)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sweepctl.laws.observations import Floats, Mask

Columns = Callable[[Floats], Floats]
"""Values of the non-linear parameter [m] -> the columns of the linear ones [k, m, rows]."""

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Profiled:
    """The best of every replicate."""

    theta: Floats
    """[replicates]."""
    coefficients: Floats
    """[replicates, k]."""
    squares: Floats
    """The weighted sum of squares there [replicates]."""
    minima: int
    """How many the profile of the first replicate has on the grid."""


def search(
    columns: Columns, targets: Floats, weights: Floats, grid: Floats, least: Floats | None = None,
    iterations: int = 40,
) -> Profiled:  # fmt: skip
    """The least weighted squares of targets - columns(theta) @ c, over theta and c, for every replicate.

    targets, weights: [replicates, rows]; the weights multiply the squares. `grid` [points] is rising and
    brackets theta: its best point is refined by a golden section search, `iterations` steps of it. `least`
    [k] are lower bounds of the coefficients, -inf where there is none.
    """
    heights = np.stack([_heights(columns, float(t), targets, weights, least) for t in grid])
    best = heights.argmin(axis=0)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, len(grid) - 1)]

    def height(theta: Floats) -> Floats:
        return _linear(columns, theta, targets, weights, least)[1]

    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = height(left), height(right)
    for _ in range(iterations):
        lower = at_left < at_right
        low, high = np.where(lower, low, left), np.where(lower, right, high)
        new = np.where(lower, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        value = height(new)
        left, right = np.where(lower, new, right), np.where(lower, left, new)
        at_left, at_right = np.where(lower, value, at_right), np.where(lower, at_left, value)
    theta = np.where(at_left < at_right, left, right)
    coefficients, squares = _linear(columns, theta, targets, weights, least)
    padded = np.concatenate([[np.inf], heights[:, 0], [np.inf]])
    minima = int(np.sum((padded[1:-1] < padded[:-2]) & (padded[1:-1] <= padded[2:])))
    return Profiled(theta, coefficients, squares, max(1, minima))


def null_columns(design: Floats, limit: float = 3e-3) -> Floats:
    """Which columns [rows, k] the rows do not tell apart: those that take part in a combination of the scaled
    columns that is nearly nothing. Returns 1.0 or 0.0 a column: [k]."""
    norms = np.linalg.norm(design, axis=0)
    _, values, right = np.linalg.svd(design / np.where(norms > 0, norms, 1.0), full_matrices=True)
    values = np.concatenate([values, np.zeros(design.shape[1] - len(values))])
    empty = right[values < limit * max(values[0], 1e-300)]
    return np.asarray((np.abs(empty) > 0.05).any(axis=0), dtype=np.float64)


def _heights(
    columns: Columns, theta: float, targets: Floats, weights: Floats, least: Floats | None
) -> Floats:
    """The squares left at one theta: [replicates]; one factorization where all replicates weigh alike."""
    free = least is None or not np.isfinite(least).any()
    if free and len(targets) > 1 and (weights == weights[0]).all():
        root = np.sqrt(weights[:1])
        basis = np.concatenate(_orthonormal(columns(np.array([theta])) * root)[0])
        target = targets * root
        return np.asarray(np.sum((target - (target @ basis.T) @ basis) ** 2, axis=1))
    return _linear(columns, np.full(len(targets), theta), targets, weights, least)[1]


def _linear(
    columns: Columns, theta: Floats, targets: Floats, weights: Floats, least: Floats | None
) -> tuple[Floats, Floats]:
    """The linear parameters at theta [replicates] and the squares left: [replicates, k], [replicates]."""
    root = np.sqrt(weights)
    design, target = columns(theta) * root, targets * root
    coefficients, squares = _solve(design, target)
    if least is None or not np.isfinite(least).any():
        return coefficients, squares
    bad = np.flatnonzero((coefficients < least - 1e-12 * np.abs(coefficients)).any(axis=1))
    if bad.size:
        coefficients[bad], squares[bad] = _bounded(design[:, bad], target[bad], least)
    return coefficients, squares


def _bounded(design: Floats, target: Floats, least: Floats) -> tuple[Floats, Floats]:
    """The best over every choice of bounded parameters that stay at their bounds; [m, k], [m]."""
    k, m = design.shape[:2]
    held_at = np.where(np.isfinite(least), least, 0.0)
    best, squares = np.tile(held_at, (m, 1)), np.full(m, np.inf)
    bounded = [int(i) for i in np.flatnonzero(np.isfinite(least))]
    for number in range(1, len(bounded) + 1):
        for held in itertools.combinations(bounded, number):
            free = [i for i in range(k) if i not in held]
            left = target - np.einsum("k,kmr->mr", held_at[list(held)], design[list(held)])
            coefficients = np.tile(held_at, (m, 1))
            coefficients[:, free], value = _solve(design[free], left)
            better = (coefficients >= least).all(axis=1) & (value < squares)
            best[better], squares[better] = coefficients[better], value[better]
    return best, squares


def _solve(design: Floats, target: Floats) -> tuple[Floats, Floats]:
    """Ordinary least squares of target [m, rows] on design [k, m, rows]: [m, k] and the squares left [m]. A
    column that depends on those before it gets 0."""
    basis, right, kept = _orthonormal(design)
    k, left = len(basis), target
    coefficients = np.zeros((target.shape[0], k))
    for _ in range(2):
        for j in range(k):
            share = np.einsum("mr,mr->m", basis[j], left)
            coefficients[:, j] += share
            left = left - share[:, None] * basis[j]
    for j in reversed(range(k)):
        for i in range(j + 1, k):
            coefficients[:, j] -= right[j, i] * coefficients[:, i]
        coefficients[:, j] = np.where(kept[j], coefficients[:, j] / right[j, j], 0.0)
    return coefficients, np.einsum("mr,mr->m", left, left)


def _orthonormal(design: Floats) -> tuple[Floats, Floats, Mask]:
    """Gram and Schmidt, twice (Giraud et al. 2005): the basis [k, m, rows], the triangle [k, k, m], and which
    columns are not dependent on those before them [k, m]; the basis of those that are is 0."""
    k, m = design.shape[:2]
    basis, right, kept = np.zeros_like(design), np.zeros((k, k, m)), np.zeros((k, m), dtype=bool)
    for j in range(k):
        v = design[j]
        size = np.sqrt(np.einsum("mr,mr->m", v, v))
        for _ in range(2 if j else 0):
            for i in range(j):
                share = np.einsum("mr,mr->m", basis[i], v)
                right[i, j] += share
                v = v - share[:, None] * basis[i]
        left = np.sqrt(np.einsum("mr,mr->m", v, v))
        kept[j] = left > 1e-11 * size
        right[j, j] = np.where(kept[j], left, 1.0)
        basis[j] = v * (kept[j] / right[j, j])[:, None]
    return basis, right, kept
