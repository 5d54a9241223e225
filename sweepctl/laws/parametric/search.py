"""The search behind the parametric law: from tables and options to minima of the objective.

Losses are divided by their geometric mean and log N, log D shifted to their means beforehand, so that nothing
depends on units. A start of the grid is a pair of exponents with E, A and B solved for; a published start is
taken as it is, and E, A and B are solved for only where its own descent stays far off. Both go on by least
squares of log residuals (Gauss and Newton), then by the objective itself; starts that have met go on as one.
Replicates descend from the optimum of all rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.law import Resampling, option
from sweepctl.laws.observations import CannotFit, Floats, Mask
from sweepctl.laws.parametric.descent import Bounds, Descended, LossRows, descend, linear

PARAMS = ("E", "A", "B", "alpha", "beta")
Objective = Literal["huber_log", "lad_log", "squares_log", "squares"]
STEEPEST = 4.0
"""Exponents are sought between 0 and this."""
NEARLY_ABSOLUTE = 1e-5
"""Delta of the Huber loss that stands for absolute deviations on the way to them and in replicates."""
CANDIDATES = 8
"""How many different minima are followed to those of absolute deviations."""
HOFFMANN = tuple(
    product((-1, -0.5, 0, 0.5, 1), (0, 5, 10, 15, 20, 25), (0, 5, 10, 15, 20, 25), (0, 0.5, 1, 1.5, 2),
            (0, 0.5, 1, 1.5, 2))
)  # fmt: skip
"""log E, log A, log B, alpha, beta of the 4,500 published starts (Hoffmann et al. 2022, appendix D.2, read in
natural logarithms as Besiroglu et al. 2024 do)."""


@dataclass(frozen=True, slots=True)
class Options(Resampling):
    """Every choice of the protocol."""

    objective: Objective = option(
        "huber_log", "sum of Huber losses, absolutes or squares of log L; squares of L"
    )
    delta: float = option(1e-3, "where the Huber loss turns from square to absolute")
    starts: Literal["grid", "hoffmann"] = option("grid", "pairs of exponents, or the 4,500 published starts")
    exponents: tuple[float, ...] = option(
        (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4), "alpha and beta of the grid's starts"
    )
    bounds: Literal["none", "nonnegative"] = option("none", "nonnegative: log A, log B, alpha, beta, E >= 0")
    flops: Literal["six_n", "counted"] = option(
        "six_n", "the optimum's budget: 6 N D, or a line through the table's FLOPs a token over N"
    )

    def __post_init__(self) -> None:
        Resampling.__post_init__(self)
        if not (0 < self.delta < np.inf) or not self.exponents:
            raise CannotFit("parametric needs delta above 0 and at least one exponent.")
        if not all(0 <= exponent <= STEEPEST for exponent in self.exponents):
            raise CannotFit(f"parametric needs starts' exponents between 0 and {STEEPEST:g}.")


@dataclass(frozen=True)
class ParametricSolution:
    """Minima of the objective."""

    parameters: Floats
    """[1 or replicates, 5] in the order of PARAMS."""
    objectives: Floats
    """[1 or replicates] there, sums in the objective's own units."""
    starts: tuple[int, int]
    """How many were tried, and how many ended at the best minimum, to a millionth of the objective."""
    restarted: int
    """How many of those had to be solved for E, A, B on the way."""
    spread: Floats
    """Standard deviations of (log E, log A, log B, alpha, beta) by the curvature at the optimum of all rows
    and the scatter around it (its median where the objective is robust), infinite where flat [5]."""


@np.errstate(all="ignore")
def solve(
    n: Floats, d: Floats, loss: Floats, options: Options, weights: Floats | None = None
) -> ParametricSolution:
    """The parameters that minimize the objective over rows: n, d, loss [rows].

    Without weights, from every start. With weights [replicates, rows], which multiply the rows' terms, for
    each replicate from the optimum of the unweighted rows; of lad_log then by Huber losses of delta 1e-5,
    which come within some tenths of a percent of the least sum.
    """
    scene = _SearchSpace(np.log(n), np.log(d), loss, options)
    ended, restarted = scene.search()
    if options.objective == "lad_log":
        ended = _absolute(scene.points, ended, scene.box)
    best = int(np.argmin(ended.f))
    agreeing = int(np.sum(ended.f <= ended.f[best] * (1 + 1e-6) + 1e-28))
    x, f = ended.x[[best]], ended.f[[best]]
    starts, spread = (len(ended.f), agreeing), scene.spread(x[0])
    whole = ParametricSolution(scene.natural(x), scene.own_units(f), starts, restarted, spread)
    return whole if weights is None else refit(n, d, loss, options, whole, weights)


@np.errstate(all="ignore")
def refit(
    n: Floats, d: Floats, loss: Floats, options: Options, whole: ParametricSolution, weights: Floats
) -> ParametricSolution:
    """What `solve` gives with weights, from what it gave without."""
    scene = _SearchSpace(np.log(n), np.log(d), loss, options)
    again = scene.again(scene.variables(whole.parameters[0]), weights)
    scale = NEARLY_ABSOLUTE if options.objective == "lad_log" else 1.0
    return replace(whole, parameters=scene.natural(again.x), objectives=scene.own_units(again.f) / scale)


class _SearchSpace:
    """The rows in the search's own units, their box, and the parts of a search."""

    def __init__(self, log_n: Floats, log_d: Floats, loss: Floats, options: Options) -> None:
        self.options, self.unit = options, float(np.exp(np.log(loss).mean()))
        self.means = np.array([log_n.mean(), log_d.mean()])
        bounded = options.bounds == "nonnegative"
        self.shift = np.zeros(2) if bounded else self.means
        kind: Literal["log", "raw"] = "raw" if options.objective == "squares" else "log"
        self.points = LossRows(log_n - self.shift[0], log_d - self.shift[1], loss / self.unit, kind)
        least = -np.log(self.unit) if bounded else -np.inf
        off = self.means - self.shift
        self.box = Bounds(
            np.array([0, least, least, 0, 0]),
            np.array([np.inf, np.inf, np.inf, STEEPEST, STEEPEST]),
            (float(off[0]), float(off[1])),
        )
        huber = {"huber_log": options.delta, "lad_log": NEARLY_ABSOLUTE}
        self.delta = huber.get(options.objective, np.inf)

    def search(self) -> tuple[Descended, int]:
        """Where every start ends, and how many were solved for E, A, B though they bring their own."""
        logs = replace(self.points, kind="log")
        if self.options.starts == "grid":
            pairs = np.array(list(product(self.options.exponents, repeat=2)))
            x = linear(logs, pairs[:, 0], pairs[:, 1])
            return self._finish(descend(logs, x, self.box, gauss=True, tolerance=1e-6, iterations=12).x), 0
        whole = descend(logs, self.published(), self.box, gauss=True, tolerance=1e-5, iterations=20)
        far = whole.f > 2 * whole.f.min() + 1e-28
        x = whole.x.copy()
        if far.any():
            x[far] = linear(logs, *np.clip(x[far, 3:], 0.05, 2).T)
        first, to_first = _merge(x, 3)
        x = descend(logs, x[first], self.box, gauss=True, tolerance=1e-6, iterations=40).x
        second, to_second = _merge(x, 4)
        ended, which = self._finish(x[second]), to_second[to_first]
        return Descended(ended.x[which], ended.f[which], ended.converged[which]), int(far.sum())

    def published(self) -> Floats:
        """The published starts as x [4500, 5]; log E of losses in other units moves along."""
        starts = np.array(HOFFMANN, dtype=np.float64)
        log_e, log_a, log_b, alpha, beta = starts.T
        a, b = log_a - alpha * self.shift[0], log_b - beta * self.shift[1]
        level = np.log(self.unit)
        return np.stack([np.exp(log_e - level), a - level, b - level, alpha, beta], axis=1)

    def _finish(self, x: Floats) -> Descended:
        """The objective's own minima from x [rows, 5]; deltas begin where a tenth of the residuals lies
        beyond."""
        if not np.isfinite(self.delta):
            if self.points.kind == "raw":
                logs = replace(self.points, kind="log")
                x = descend(logs, x, self.box, gauss=True, tolerance=1e-6, iterations=40).x
            return descend(self.points, x, self.box)
        size = np.abs(self.points.terms(x)[0])
        return descend(self.points, x, self.box, self.delta, np.quantile(size, 0.9, axis=1))

    def again(self, x: Floats, weights: Floats) -> Descended:
        """Minima of reweighted rows, from the optimum of all."""
        size = np.abs(self.points.terms(x[None])[0][0])
        share = 0.9 if self.options.objective == "lad_log" else 0.5
        start = float(np.quantile(size, share)) if np.isfinite(self.delta) else np.inf
        return descend(self.points, np.tile(x, (len(weights), 1)), self.box, self.delta, start, weights)

    def natural(self, x: Floats) -> Floats:
        """[rows, 5] in the order of PARAMS, losses in their own units again."""
        e, a, b, alpha, beta = x.T
        big_a, big_b = np.exp(a + alpha * self.shift[0]), np.exp(b + beta * self.shift[1])
        return np.stack([e * self.unit, big_a * self.unit, big_b * self.unit, alpha, beta], axis=1)

    def variables(self, parameters: Floats) -> Floats:
        """The inverse of `natural` for one [5]."""
        e, a, b, alpha, beta = parameters
        a, b = np.log(a / self.unit) - alpha * self.shift[0], np.log(b / self.unit) - beta * self.shift[1]
        return np.array([e / self.unit, a, b, alpha, beta])

    def own_units(self, f: Floats) -> Floats:
        """Sums as objectives print them: squares without the half, absolutes as they are."""
        if self.options.objective == "squares":
            return 2 * f * self.unit**2
        return 2 * f if self.options.objective == "squares_log" else f

    def spread(self, x: Floats) -> Floats:
        """ParametricSolution.spread, by Gauss and Newton's Hessian at x [5] in centred variables."""
        residual, columns = self.points.jacobian(x)
        off = self.means - self.shift
        columns[:, 0] *= max(x[0], 1e-300)
        columns[:, 3] += off[0] * columns[:, 1]
        columns[:, 4] += off[1] * columns[:, 2]
        size = float(np.mean(residual**2))
        if np.isfinite(self.delta):
            size = min(size, float(1.4826 * np.median(np.abs(residual))) ** 2)
        scatter = size * len(residual) / max(1, len(residual) - 5)
        values, vectors = np.linalg.eigh(columns.T @ columns)
        inverse = np.where(values > 1e-13 * values[-1], 1 / np.maximum(values, 1e-300), np.inf)
        covariance = np.where(vectors**2 > 1e-16, vectors**2 * inverse, 0.0).sum(1)
        return np.asarray(np.where(np.isinf(covariance), np.inf, np.sqrt(scatter * covariance)))


def _merge(x: Floats, digits: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of x [rows, 5] one row for all that are alike to so many digits, and which each row became."""
    _, first, which = np.unique(np.round(x, digits), axis=0, return_index=True, return_inverse=True)
    return first, which.ravel()


def _absolute(points: LossRows, ended: Descended, box: Bounds) -> Descended:
    """The minima of absolute deviations next to those of nearly absolute Huber losses, the best CANDIDATES of
    which are followed; the others count as they are, which is never below."""
    x, f = ended.x.copy(), np.abs(points.terms(ended.x)[0]).sum(1)
    order = np.argsort(f)
    followed = 0
    done = np.zeros(len(f), dtype=bool)
    for i in order:
        if done[i]:
            continue
        if followed == CANDIDATES or f[i] > 1.2 * f[order[0]] + 1e-12:
            break
        alike: Mask = ~done & (ended.f <= ended.f[i] * (1 + 1e-7)) & (ended.f >= ended.f[i] * (1 - 1e-7))
        x[alike], f[alike] = _least_absolute(points, x[i], box)
        done |= alike
        followed += 1
    return Descended(x, f, ended.converged)


def _least_absolute(points: LossRows, x: Floats, box: Bounds) -> tuple[Floats, float]:
    """A local minimum of the sum of absolute residuals from x [5]: linear programs of linearized residuals
    within a shrinking reach (Osborne and Watson 1971)."""
    from scipy.optimize import linprog
    from scipy.sparse import block_array, csr_array, eye_array

    count, reach = points.n.size, 0.1
    residual, columns = points.jacobian(x)
    f = float(np.abs(residual).sum())
    if not (np.isfinite(residual).all() and np.isfinite(columns).all()):
        return x, np.inf
    cost = np.concatenate([np.zeros(5), np.ones(count)])
    wide = box.shift != (0.0, 0.0)
    slack: Any = eye_array(count)
    for _ in range(60):
        part = csr_array(columns)
        matrix: Any = block_array([[part, -slack], [-part, -slack]], format="csr")
        sides = np.concatenate([-residual, residual])
        limits = reach * np.where(np.array([0, wide, wide, 0, 0]), 100.0, 1 + np.abs(x))
        low, high = np.full(5 + count, 0.0), np.full(5 + count, np.inf)
        low[:5], high[:5] = np.maximum(box.low - x, -limits), np.minimum(box.high - x, limits)
        program = linprog(cost, matrix, sides, bounds=list(zip(low.tolist(), high.tolist(), strict=True)))
        if program.x is None or program.fun is None:
            break
        trial = np.clip(x + program.x[:5], box.low, box.high)
        there, there_columns = points.jacobian(trial)
        value = float(np.abs(there).sum())
        promised = f - float(program.fun)
        if value < f:
            x, f, residual, columns = trial, value, there, there_columns
        else:
            reach /= 4
        if promised <= 1e-13 * f or reach < 1e-12:
            break
    return x, f
