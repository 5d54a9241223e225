"""Many small smooth minimizations at once: one BFGS a row, as arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.observations import Floats

Objective = Callable[[Floats, NDArray[np.int64]], tuple[Floats, Floats]]
"""(points [m, k], their row numbers [m]) -> values [m], gradients [m, k]."""


@dataclass(frozen=True)
class Minimized:
    """Where every start ended."""

    x: Floats
    """[rows, k]."""
    f: Floats
    """[rows]."""
    converged: NDArray[np.bool_]
    """Whether the gradient vanished there [rows]."""


def minimize(
    objective: Objective, starts: Floats, max_iterations: int = 500, tolerance: float = 1e-9
) -> Minimized:
    """BFGS with a backtracking line search for every row of `starts` [rows, k].

    The objective should be of order 1 and its variables of similar scale. A row is converged when its
    largest gradient element is below `tolerance` x max(1, f), or when no step lowers it any more.
    (Nocedal and Wright 2006, algorithm 6.1, with the update skipped where the curvature is not positive.)
    """
    x = np.array(starts, dtype=np.float64)
    rows, k = x.shape
    f, g = objective(x, np.arange(rows))
    inverse = np.tile(np.eye(k), (rows, 1, 1))
    fresh = np.ones(rows, dtype=bool)
    active = np.isfinite(f)
    f = np.where(active, f, np.inf)
    for _ in range(max_iterations):
        i = np.flatnonzero(active)
        if not i.size:
            break
        direction = -np.einsum("rij,rj->ri", inverse[i], g[i])
        slope = np.einsum("ri,ri->r", direction, g[i])
        uphill = slope >= 0
        direction[uphill], slope[uphill] = -g[i][uphill], -np.einsum("ri,ri->r", g[i], g[i])[uphill]
        inverse[i[uphill]] = np.eye(k)
        size = np.where(fresh[i], np.minimum(1.0, 1.0 / np.maximum(np.abs(direction).max(1), 1e-12)), 1.0)
        new_x, new_f, new_g, moved = _line_search(objective, i, x[i], f[i], g[i], direction, slope, size)
        _update(inverse, i, fresh, new_x - x[i], new_g - g[i], moved)
        gain = f[i] - new_f
        x[i], f[i], g[i] = new_x, new_f, new_g
        flat = np.abs(new_g).max(1) <= tolerance * np.maximum(1.0, np.abs(new_f))
        stuck = ~moved & fresh[i]
        fresh[i[~moved]] = True
        inverse[i[~moved]] = np.eye(k)
        slow = moved & (gain <= 1e-15 * np.maximum(1.0, np.abs(new_f)))
        active[i[flat | stuck | slow]] = False
    return Minimized(x, f, ~active & np.isfinite(f))


def _line_search(
    objective: Objective, i: NDArray[np.int64], x: Floats, f: Floats, g: Floats, direction: Floats,
    slope: Floats, size: Floats,
) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:  # fmt: skip
    """Halve each row's step until it lowers f enough; rows that never do stay where they are."""
    new_x, new_f, new_g = x.copy(), f.copy(), g.copy()
    waiting = np.arange(len(i))
    size = size.copy()
    for _ in range(40):
        trial = x[waiting] + size[waiting, None] * direction[waiting]
        value, gradient = objective(trial, i[waiting])
        with np.errstate(invalid="ignore"):
            good = value <= f[waiting] + 1e-4 * size[waiting] * slope[waiting]
        good &= np.isfinite(value)
        done = waiting[good]
        new_x[done], new_f[done], new_g[done] = trial[good], value[good], gradient[good]
        waiting = waiting[~good]
        if not waiting.size:
            break
        size[waiting] *= 0.5
    moved = np.ones(len(i), dtype=bool)
    moved[waiting] = False
    return new_x, new_f, new_g, moved


def _update(
    inverse: Floats, i: NDArray[np.int64], fresh: NDArray[np.bool_], s: Floats, y: Floats,
    moved: NDArray[np.bool_],
) -> None:  # fmt: skip
    """The BFGS update of the inverse Hessians of the rows that moved along positive curvature."""
    sy = np.einsum("ri,ri->r", s, y)
    use = moved & (sy > 1e-12 * np.linalg.norm(s, axis=1) * np.linalg.norm(y, axis=1))
    if not use.any():
        return
    rows, s, y, sy = i[use], s[use], y[use], sy[use]
    h = inverse[rows]
    first = fresh[rows]
    scale = sy / np.einsum("ri,ri->r", y, y)
    h[first] = scale[first, None, None] * np.eye(h.shape[1])
    fresh[rows] = False
    hy = np.einsum("rij,rj->ri", h, y)
    yhy = np.einsum("ri,ri->r", y, hy)
    outer = np.einsum("ri,rj->rij", s, s)
    cross = np.einsum("ri,rj->rij", hy, s)
    h += (sy + yhy)[:, None, None] / sy[:, None, None] ** 2 * outer
    h -= (cross + cross.transpose(0, 2, 1)) / sy[:, None, None]
    inverse[rows] = h
