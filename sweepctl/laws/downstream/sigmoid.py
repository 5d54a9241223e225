"""Accuracy over task loss: a / (1 + exp(-k (x - x0))) + b by least squares within bounds, many at once.

Levenberg-Marquardt steps in the parameters that are not held at a bound (Nocedal and Wright 2006, section
10.3), one problem a row of the arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sweepctl.laws.observations import Floats

NAMES = ("a", "x0", "k", "b")
LADDER = np.array([[-1.0, 0.0, 0.0, 0.0], [0.0, np.inf, np.inf, 1.0]])
"""Bounds of the OLMo ladder: a in [-1, 0], x0 and k at least 0, b in [0, 1]: [2, 4]."""
FREE = np.array([[-np.inf, -np.inf, 0.0, -np.inf], [0.0, np.inf, np.inf, np.inf]])
"""Accuracy falls with the loss, and nothing more: [2, 4]."""
CHUNK = 1_500_000


@dataclass(frozen=True)
class Sigmoids:
    """Sigmoids that were fitted."""

    parameters: Floats
    """[m, 4] in the order of NAMES."""
    squares: Floats
    """Sums of squares [m]."""


def value(params: Any, x: Any) -> Any:
    """The accuracy at a task loss; `params` maps NAMES to numbers or arrays that broadcast."""
    with np.errstate(over="ignore"):
        return params["a"] / (1 + np.exp(-params["k"] * (x - params["x0"]))) + params["b"]


def starts(x: Floats, y: Floats, bounds: Floats) -> Floats:
    """Middles over the range of x, slopes from gentle to steep, a and b from the range of y: [36, 4]."""
    low, high = float(x.min()), float(x.max())
    width = max(high - low, 1e-6 * max(1.0, abs(high)))
    points = [
        (a, low + share * width, steep / width, b)
        for share in (0.1, 0.35, 0.6, 0.85)
        for steep in (2.0, 6.0, 18.0)
        for a, b in ((y.min() - y.max(), y.max()), (-1.0, 1.0), (-0.5, 0.9))
    ]
    return np.asarray(np.clip(np.array(points), bounds[0], bounds[1]))


def solve(
    x: Floats, y: Floats, begin: Floats, bounds: Floats, weights: Floats | None = None, steps: int = 200
) -> Sigmoids:
    """The least weighted squares near each start.

    x, y: [rows]; begin: [m, 4]; bounds: [2, 4]; weights [m, rows] multiply the squares, 1 where not given.
    """
    begin = np.atleast_2d(begin)
    size = max(1, CHUNK // max(1, len(x)))
    parts = [
        _solve(x, y, begin[i : i + size], bounds, None if weights is None else weights[i : i + size], steps)
        for i in range(0, len(begin), size)
    ]
    return Sigmoids(np.concatenate([p.parameters for p in parts]), np.concatenate([p.squares for p in parts]))


def jacobian(parameters: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Values [m, rows] and their derivatives by NAMES [m, 4, rows]."""
    a, x0, k, b = (column[:, None] for column in parameters.T)
    z = x[None] - x0
    s = 0.5 * (1 + np.tanh(0.5 * k * z))
    bend = a * s * (1 - s)
    return a * s + b, np.stack([s, -k * bend, z * bend, np.ones_like(s)], axis=1)


def _solve(
    x: Floats, y: Floats, begin: Floats, bounds: Floats, weights: Floats | None, steps: int
) -> Sigmoids:
    at, damping = begin.copy(), np.full(len(begin), 1e-3)
    root = np.ones((len(begin), 1)) if weights is None else np.sqrt(weights)
    squares = np.sum(((_values(at, x) - y) * root) ** 2, axis=1)
    active = np.ones(len(begin), dtype=bool)
    quiet = np.zeros(len(begin), dtype=int)
    for _ in range(steps):
        i = np.flatnonzero(active)
        if not i.size:
            break
        weigh = root if len(root) == 1 else root[i]
        new = np.clip(at[i] + _step(x, y, at[i], bounds, weigh, damping[i]), bounds[0], bounds[1])
        squares_there = np.sum(((_values(new, x) - y) * weigh) ** 2, axis=1)
        better = squares_there < squares[i]
        gain = np.where(better, squares[i] - squares_there, 0.0)
        at[i[better]], squares[i[better]] = new[better], squares_there[better]
        damping[i] = np.where(better, damping[i] / 5, damping[i] * 4)
        small = gain <= 1e-12 * squares[i] + 1e-28
        quiet[i] = np.where(small & better, quiet[i] + 1, np.where(better, 0, quiet[i]))
        active[i] = (quiet[i] < 2) & (damping[i] < 1e12)
    return Sigmoids(at, squares)


def _values(parameters: Floats, x: Floats) -> Floats:
    a, x0, k, b = (column[:, None] for column in parameters.T)
    return np.asarray(a * 0.5 * (1 + np.tanh(0.5 * k * (x[None] - x0))) + b)


def _step(x: Floats, y: Floats, at: Floats, bounds: Floats, root: Floats, damping: Floats) -> Floats:
    """The damped Gauss-Newton step of the parameters that no bound holds: [m, 4]."""
    values, slopes = jacobian(at, x)
    slopes *= root[:, None, :]
    residual = (values - y) * root
    gram = slopes @ slopes.transpose(0, 2, 1)
    gradient = np.einsum("mpr,mr->mp", slopes, residual)
    held = ((at <= bounds[0]) & (gradient > 0)) | ((at >= bounds[1]) & (gradient < 0))
    gradient[held] = 0.0
    gram *= ~held[:, :, None] & ~held[:, None, :]
    diagonal = np.einsum("mii->mi", gram).copy()
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = gram / scale[:, :, None] / scale[:, None, :]
    scaled += (damping[:, None] + np.where(diagonal > 0, 0.0, 1.0))[:, :, None] * np.eye(4)
    return np.asarray(np.linalg.solve(scaled, -(gradient / scale)[:, :, None])[:, :, 0] / scale)
