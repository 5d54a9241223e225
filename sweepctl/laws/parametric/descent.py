"""Minima of the misfit of E + A / N^alpha + B / D^beta, many at once: one minimization a row of an array.

The variables are x = (E, log A', log B', alpha, beta), where A' = A / exp(shift_n alpha) is the law's second
term at log N = shift_n, and B' alike. With the shifts at the mean logarithms the variables hardly correlate.
The method is Newton's with exact second derivatives, damped (Marquardt 1963), its steps projected on a box
(Bertsekas 1982). Where the misfit is Huber's, its delta starts at the scale of a row's own residuals and
shrinks to the one asked for as the row converges (Madsen and Nielsen 1993 for the linear case): the steps are
those of smooth problems, and few are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.observations import Floats, Mask

CHUNK = 1 << 14
"""Numbers in an intermediate array: what stays in a core's cache."""
SHRINK = 0.5
"""Factor of delta from one stage to the next."""
READY = 1e-3
"""A stage ends where a step is expected to lower the misfit by less than this share."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of x."""

    low: Floats
    """[5]."""
    high: Floats
    """[5]."""
    shift: tuple[float, float]
    """Of log N and log D, that x is for."""


@dataclass(frozen=True)
class LossRows:
    """What is fitted, [points] each."""

    n: Floats
    """log N less its shift."""
    d: Floats
    """log D less its shift."""
    loss: Floats
    """In nats."""
    kind: Literal["log", "raw"] = "log"
    """What a residual is: the logarithm of predicted over measured, or their difference."""
    by_n: Floats = field(init=False)
    """1, log N and its square, by which sums over points are taken [points, 3]."""
    by_d: Floats = field(init=False)
    """The same of log D."""
    by_both: Floats = field(init=False)
    """1, log N, log D and their product [points, 4]."""

    def __post_init__(self) -> None:
        ones, n, d = np.ones_like(self.n), self.n, self.d
        object.__setattr__(self, "by_n", np.stack([ones, n, n * n], axis=1))
        object.__setattr__(self, "by_d", np.stack([ones, d, d * d], axis=1))
        object.__setattr__(self, "by_both", np.stack([ones, n, d, n * d], axis=1))

    def terms(self, x: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Residuals [rows, points] and their derivatives by E, log A' and log B'; x [rows, 5]."""
        e, a, b, alpha, beta = (column[:, None] for column in x.T)
        of_n, of_d = a - alpha * self.n, b - beta * self.d
        np.exp(of_n, out=of_n)
        np.exp(of_d, out=of_d)
        whole = of_n + of_d
        whole += e
        if self.kind == "raw":
            return whole - self.loss, np.ones_like(whole), of_n, of_d
        residual = np.log(whole / self.loss)
        of_e = 1 / whole
        of_n *= of_e
        of_d *= of_e
        return residual, of_e, of_n, of_d

    def jacobian(self, x: Floats) -> tuple[Floats, Floats]:
        """Residuals [points] and their derivatives [points, 5] at one x [5]."""
        residual, of_e, of_n, of_d = (part[0] for part in self.terms(x[None]))
        return residual, np.stack([of_e, of_n, of_d, -of_n * self.n, -of_d * self.d], axis=1)


@dataclass
class MisfitAt:
    """The misfit around x, at two deltas."""

    at_old: Floats
    """At the first delta [rows]."""
    at_new: Floats
    """At the second [rows]."""
    gradient: Floats
    """At the second [5, rows]."""
    hessian: Floats
    """At the second [5, 5, rows]."""


def local(
    points: LossRows, x: Floats, weights: Floats | None, old: Floats, new: Floats, gauss: bool = False
) -> MisfitAt:
    """The sum of weighted Huber losses at x [rows, 5]: r^2 / 2 up to delta, delta (|r| - delta / 2) beyond.

    weights [rows, points] or None; old, new [rows] are deltas, infinite for squares. With `gauss` the Hessian
    is Gauss and Newton's, which is never indefinite.
    """
    rows = len(x)
    misfit = MisfitAt(np.empty(rows), np.empty(rows), np.empty((5, rows)), np.empty((5, 5, rows)))
    step = max(1, CHUNK // max(1, points.n.size))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        chosen = None if weights is None else weights[part]
        _local(points, x[part], chosen, old[part, None], new[part, None], gauss, misfit, part)
    return misfit


def _local(
    points: LossRows, x: Floats, weights: Floats | None, old: Floats, new: Floats, gauss: bool,
    misfit: MisfitAt, part: slice,
) -> None:  # fmt: skip
    residual, of_e, of_n, of_d = points.terms(x)
    slope, bend, misfit.at_new[part] = _huber(residual, weights, new)
    misfit.at_old[part] = misfit.at_new[part] if (old == new).all() else _huber(residual, weights, old)[2]
    by_n, by_d = (slope * of_n) @ points.by_n, (slope * of_d) @ points.by_d
    misfit.gradient[:, part] = [
        np.einsum("rp,rp->r", slope, of_e), by_n[:, 0], by_d[:, 0], -by_n[:, 1], -by_d[:, 1],
    ]  # fmt: skip
    if points.kind == "log" and not gauss:
        bend = (1.0 if bend is None else bend) - slope
    bent_n, bent_d, bent_e = (of_n, of_d, of_e) if bend is None else (bend * of_n, bend * of_d, bend * of_e)
    twice_n, twice_d = (bent_n * of_n) @ points.by_n, (bent_d * of_d) @ points.by_d
    if not gauss:
        twice_n += by_n
        twice_d += by_d
    both = (bent_n * of_d) @ points.by_both
    e_n, e_d = (bent_e * of_n) @ points.by_n[:, :2], (bent_e * of_d) @ points.by_d[:, :2]
    entries = {
        (0, 0): np.einsum("rp,rp->r", bent_e, of_e),
        (0, 1): e_n[:, 0], (0, 2): e_d[:, 0], (0, 3): -e_n[:, 1], (0, 4): -e_d[:, 1],
        (1, 1): twice_n[:, 0], (1, 2): both[:, 0], (1, 3): -twice_n[:, 1], (1, 4): -both[:, 2],
        (2, 2): twice_d[:, 0], (2, 3): -both[:, 1], (2, 4): -twice_d[:, 1],
        (3, 3): twice_n[:, 2], (3, 4): both[:, 3], (4, 4): twice_d[:, 2],
    }  # fmt: skip
    for (i, j), values in entries.items():
        misfit.hessian[i, j, part] = misfit.hessian[j, i, part] = values


def _huber(residual: Floats, weights: Floats | None, delta: Floats) -> tuple[Floats, Floats | None, Floats]:
    """Weighted first and second derivatives of the Huber loss [rows, points], the second None where it is 1
    everywhere, and its sums [rows]; delta [rows, 1]."""
    slope, bend = residual, weights
    if np.isfinite(delta).any():
        slope = np.clip(residual, -delta, delta)
        inside = slope == residual
        bend = inside.astype(np.float64) if weights is None else inside * weights
    part = residual if slope is residual else 2 * residual - slope
    weighted = slope if weights is None else slope * weights
    return weighted, bend, 0.5 * np.einsum("rp,rp->r", weighted, part)


@dataclass(frozen=True)
class Descended:
    """Where every row ended."""

    x: Floats
    """[rows, 5]."""
    f: Floats
    """The misfit there [rows]."""
    converged: Mask
    """Whether no step would lower it [rows]."""


def descend(
    points: LossRows, x: Floats, box: Bounds, delta: float = np.inf, start: Floats | float = np.inf,
    weights: Floats | None = None, gauss: bool = False, tolerance: float = 1e-13, iterations: int = 200,
) -> Descended:  # fmt: skip
    """A minimum for every row of x [rows, 5], `start` [rows] being the delta that it begins with.

    A row is converged where a step is expected to lower its misfit by less than the share `tolerance`. Trial
    points may overflow: callers silence numpy's warnings.
    """
    state = _Descent(points, np.clip(x, box.low, box.high), box, delta, start, weights, gauss)
    for _ in range(iterations):
        rows = np.flatnonzero(state.active)
        if not rows.size:
            break
        state.advance(rows, tolerance)
    return Descended(state.x, state.f, ~state.active & np.isfinite(state.f))


class _Descent:
    """The state of the rows of `descend`."""

    def __init__(
        self, points: LossRows, x: Floats, box: Bounds, delta: float, start: Floats | float,
        weights: Floats | None, gauss: bool,
    ) -> None:  # fmt: skip
        self.points, self.x, self.box, self.weights, self.gauss = points, x, box, weights, gauss
        self.delta = delta
        self.deltas = np.maximum(delta, np.broadcast_to(start, (len(x),)))
        here = local(points, x, weights, self.deltas, self.deltas, gauss)
        self.f, self.g, self.h = here.at_new, here.gradient, here.hessian
        self.damping, self.growth = np.full(len(x), 1e-3), np.full(len(x), 4.0)
        self.active = np.isfinite(self.f)
        self.f[~self.active] = np.inf

    def advance(self, rows: NDArray[np.int64], tolerance: float) -> None:
        """One trial step of these rows."""
        x, f, g, h = self.x[rows], self.f[rows], self.g[:, rows], self.h[:, :, rows]
        damping, deltas = self.damping[rows], self.deltas[rows]
        s = damped_step(h, g, damping, x, self.box)
        trial = np.clip(x + s.T, self.box.low, self.box.high)
        promised = -(g * s).sum(0) - 0.5 * (s * (h * s).sum(1)).sum(0)
        last = deltas <= self.delta
        smaller = np.maximum(self.delta, deltas * SHRINK)
        after = np.where(last | (promised > READY * f), deltas, smaller)
        weights = None if self.weights is None else self.weights[rows]
        there = local(self.points, trial, weights, deltas, after, self.gauss)
        gain = f - there.at_old
        good = np.isfinite(there.at_old) & (promised > 0) & (gain > 1e-4 * promised)
        self._accept(rows[good], trial[good], there, good, after[good])
        share = np.where(good, gain / np.where(promised > 0, promised, 1.0), 0.0)
        factor = np.where(share > 0.75, 1 / 8, np.where(share > 0.25, 1.0, 3.0))
        damping = np.where(good, damping * factor, damping * self.growth[rows])
        self.growth[rows] = np.where(good, 4.0, 2 * self.growth[rows])
        self.damping[rows] = np.maximum(damping, 1e-14)
        ended = (np.abs(promised) <= tolerance * f) | (damping > 1e14) | (f <= 1e-30)
        self.active[rows[ended & last]] = False
        self._restage(rows[ended & ~last & ~good])

    def _accept(
        self, rows: NDArray[np.int64], x: Floats, there: MisfitAt, good: Mask, deltas: Floats
    ) -> None:
        self.x[rows], self.f[rows], self.deltas[rows] = x, there.at_new[good], deltas
        self.g[:, rows], self.h[:, :, rows] = there.gradient[:, good], there.hessian[:, :, good]

    def _restage(self, rows: NDArray[np.int64]) -> None:
        """The next delta for rows that stand at the minimum of a stage."""
        if not rows.size:
            return
        self.deltas[rows] = np.maximum(self.delta, self.deltas[rows] * SHRINK)
        weights = None if self.weights is None else self.weights[rows]
        here = local(self.points, self.x[rows], weights, self.deltas[rows], self.deltas[rows], self.gauss)
        self.f[rows], self.g[:, rows], self.h[:, :, rows] = here.at_new, here.gradient, here.hessian
        self.damping[rows], self.growth[rows] = 1e-3, 4.0


def damped_step(h: Floats, g: Floats, damping: Floats, x: Floats, box: Bounds) -> Floats:
    """(h + damping x metric) s = -g for s [5, rows], x + s in the box: variables that press against it stay,
    those that would leave it stop at its side, and the rest are solved for once more.

    h [5, 5, rows], g [5, rows], x [rows, 5]; where the sum is not positive definite, `damping` [rows] is
    raised in place until it is.
    """
    low, high = box.low[:, None] - x.T, box.high[:, None] - x.T
    metric = _metric(h, box)
    held = (low >= 0) & (g > 0) | (high <= 0) & (g < 0)
    s = _solve_held(h, metric, g, damping, held, np.zeros_like(g))
    crossing = (s < low) | (s > high)
    rows = np.flatnonzero(crossing.any(0))
    if rows.size:
        held = held[:, rows] | crossing[:, rows]
        value = np.where(crossing, np.clip(s, low, high), 0.0)[:, rows]
        again = damping[rows]
        s[:, rows] = _solve_held(h[:, :, rows], metric[:, :, rows], g[:, rows], again, held, value)
        damping[rows] = again
    return np.asarray(np.clip(s, low, high))


def _solve_held(h: Floats, metric: Floats, g: Floats, damping: Floats, held: Mask, value: Floats) -> Floats:
    """The damped step where the `held` variables [5, rows] take their `value` [5, rows]."""
    right = -g
    if value.any():
        right -= (h * value).sum(1)
    right = np.where(held, value, right)
    s = np.zeros_like(g)
    rows = np.arange(g.shape[1])
    for _ in range(14):
        matrix = h[:, :, rows] + damping[rows] * metric[:, :, rows]
        fixed = held[:, rows]
        if fixed.any():
            matrix *= ~fixed[:, None] & ~fixed[None]
            for j in range(len(g)):
                matrix[j, j] += fixed[j]
        part, positive = solve_positive(matrix, right[:, rows])
        s[:, rows[positive]] = part[:, positive]
        rows = rows[~positive]
        if not rows.size:
            break
        damping[rows] = np.maximum(damping[rows] * 10, 1e-4)
    return s


def _metric(h: Floats, box: Bounds) -> Floats:
    """What damping multiplies, [5, 5, rows]: the diagonal of h in the variables of shifted logarithms."""
    shift_n, shift_d = box.shift
    turn = np.eye(5)
    turn[1, 3], turn[2, 4] = -shift_n, -shift_d
    shifted = not (shift_n == 0 and shift_d == 0)
    back = np.linalg.inv(turn)
    whole = np.einsum("ki,klr,lj->ijr", back, h, back, optimize=True) if shifted else h
    diagonal = np.abs(np.einsum("iir->ir", whole))
    diagonal = np.maximum(diagonal, 1e-2 * diagonal.max(0)) + 1e-300
    if shifted:
        return np.asarray(np.einsum("ki,kr,kj->ijr", turn, diagonal, turn, optimize=True))
    diagonals = np.zeros_like(h)
    for j in range(5):
        diagonals[j, j] = diagonal[j]
    return diagonals


def solve_positive(h: Floats, right: Floats) -> tuple[Floats, Mask]:
    """h s = right by LDL' for h [k, k, rows], right [k, rows]: s, and where h is positive definite."""
    k = len(right)
    low = np.zeros_like(h)
    s, pivots = right.copy(), np.empty_like(right)
    positive = np.ones(right.shape[1], dtype=bool)
    for j in range(k):
        scaled = low[j, :j] * pivots[:j]
        pivot = h[j, j] - (scaled * low[j, :j]).sum(0)
        positive &= pivot > 1e-14 * np.abs(h[j, j])
        pivots[j] = np.where(pivot > 0, pivot, 1.0)
        for i in range(j + 1, k):
            low[i, j] = (h[i, j] - (scaled * low[i, :j]).sum(0)) / pivots[j]
    for j in range(k):
        s[j] -= (low[j, :j] * s[:j]).sum(0)
    s /= pivots
    for j in reversed(range(k)):
        s[j] -= (low[j + 1 :, j] * s[j + 1 :]).sum(0)
    return s, positive


def linear(points: LossRows, alpha: Floats, beta: Floats) -> Floats:
    """x [rows, 5] at exponents [rows] with the E, A, B >= 0 of least relative squares, the terms kept above a
    hundredth of the loss somewhere, so that logarithms exist."""
    step = max(1, CHUNK // max(1, points.n.size))
    parts = [_linear(points, alpha[i : i + step], beta[i : i + step]) for i in range(0, len(alpha), step)]
    return np.concatenate(parts)


def _linear(points: LossRows, alpha: Floats, beta: Floats) -> Floats:
    columns = np.stack(
        [
            np.broadcast_to(1 / points.loss, (len(alpha), points.n.size)),
            np.exp(-alpha[:, None] * points.n) / points.loss,
            np.exp(-beta[:, None] * points.d) / points.loss,
        ],
        axis=1,
    )
    largest = columns.max(2)
    columns /= largest[:, :, None]
    gram, moment = columns @ columns.transpose(0, 2, 1), columns.sum(2)
    best, least = np.zeros_like(moment), np.zeros(len(alpha))
    for members in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        part = gram[:, members][:, :, members]
        factors = (np.linalg.pinv(part, hermitian=True) @ moment[:, members, None])[:, :, 0]
        value = -np.einsum("rk,rk->r", factors, moment[:, members])
        better = (factors >= 0).all(1) & (value < least)
        least = np.where(better, value, least)
        full = np.zeros_like(best)
        full[:, members] = factors
        best = np.where(better[:, None], full, best)
    best = np.maximum(best, 1e-2) / largest
    return np.stack([best[:, 0], np.log(best[:, 1]), np.log(best[:, 2]), alpha, beta], axis=1)
