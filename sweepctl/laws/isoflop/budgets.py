"""The budgets of method 2: rows to budgets, and the minimum of each budget's curve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from sweepctl.laws.isoflop.options import Options
from sweepctl.laws.numerics import linear
from sweepctl.laws.observations import Excluded, Floats, Observations
from sweepctl.laws.shared.levels import levels

MIN_POINTS = 3
SAME = {"quadratic": 1e-9, "akima": 1e-3}
"""Sizes within this share of each other are one: an interpolation needs them well apart."""


@dataclass(frozen=True)
class BudgetRuns:
    """The runs of one FLOP budget, [points] in rising order of x."""

    flops: float
    """The budget."""
    x: Floats
    """The log of what the curve runs over."""
    log_n: Floats
    """Of parameters."""
    log_d: Floats
    """Of tokens."""
    log_cost: Floats
    """Of FLOPs."""
    loss: Floats
    """In nats."""
    rows: tuple[str, ...]
    """Names of the rows."""

    def split(self, x: Any, over: str) -> dict[str, Any]:
        """log N, log D and log M (FLOPs a token) of a run at x that costs exactly the budget.

        What is not x is read off the budget's own runs: log M and log N are piecewise straight over x, and
        D = C / M. Where C = 6 N D this is exact.
        """
        log_c = np.log(self.flops)
        at_m = x if over == "m" else read_off(x, self.x, self.log_cost - self.log_d)
        log_d = x if over == "d" else log_c - at_m
        log_n = x if over == "n" else log_c - read_off(x, self.x, self.log_cost - self.log_n)
        if over == "m":
            log_n = read_off(x, self.x, self.log_n)
        return {"n": log_n, "d": log_d, "m": log_c - log_d}


@dataclass(frozen=True)
class Parabola:
    """bend (x - center)^2 + tilt (x - center) + level: the loss, or its log where that was fitted."""

    center: float
    """Where x is measured from."""
    bend: float
    """Of the square."""
    tilt: float
    """Of x."""
    level: float
    """At the center."""

    def at(self, x: Floats) -> Floats:
        """Its value at log sizes x."""
        off = x - self.center
        return (self.bend * off + self.tilt) * off + self.level


@dataclass(frozen=True)
class Vertices:
    """The minima of the copies of a budget's curve."""

    at: Floats
    """Where, a log [copies]."""
    loss: Floats
    """The loss there [copies]."""
    problem: Any
    """What is wrong with each [copies]: 'concave', 'edge' or ''."""
    parabola: Parabola | None = None
    """The curve of the first copy, where it is a parabola."""


def read_off(at: Any, x: Floats, y: Floats) -> Any:
    """y at `at`, straight between the points and beyond them; points of equal x are averaged."""
    places, place = np.unique(x, return_inverse=True)
    mean = np.bincount(place, y) / np.bincount(place)
    if len(places) == 1:
        return np.full_like(np.asarray(at, dtype=np.float64), mean[0])
    slopes = np.diff(mean) / np.diff(places)
    below, above = np.minimum(at - places[0], 0.0), np.maximum(at - places[-1], 0.0)
    return np.interp(at, places, mean) + slopes[0] * below + slopes[-1] * above


def budgets(data: Observations, options: Options) -> tuple[list[BudgetRuns], list[Excluded]]:
    """Budgets in rising order, and the rows that are in none: too far from a budget, not the row kept of
    their size, outside the window, or in a budget of fewer than three sizes."""
    kept, excluded = [], list(data.excluded)
    for flops, rows in _grouped(data, options, excluded):
        log_c, log_n, log_d = (np.log(v[rows]) for v in (data.flops, data.n, data.d))
        x = {"n": log_n, "d": log_d, "m": log_c - log_d}[options.over]
        order = np.argsort(x, kind="stable")
        names = [data.rows[rows[i]] for i in order]
        budget = BudgetRuns(
            flops, x[order], log_n[order], log_d[order], log_c[order], data.loss[rows][order], tuple(names)
        )
        budget = _windowed(_one_a_size(budget, options, excluded), options, excluded)
        sizes = len(np.unique(np.round(budget.x, 9)))
        if sizes < MIN_POINTS:
            reason = f"its budget was trained at {sizes} of the {MIN_POINTS} sizes a parabola needs"
            excluded += [Excluded(row, reason) for row in budget.rows]
            continue
        kept.append(budget)
    return kept, excluded


def _grouped(data: Observations, options: Options, excluded: list[Excluded]) -> list[tuple[float, list[int]]]:
    """FLOPs of each budget and its rows: the nearest of the budgets named, or rows within the tolerance of
    the least of their group, at their geometric mean."""
    if options.budgets:
        nominal = np.array(sorted(set(options.budgets)))
        off = np.abs(data.flops[:, None] / nominal - 1)
        place = off.argmin(1)
        near = off[np.arange(len(data)), place] <= options.tolerance
        excluded += [
            Excluded(data.rows[i], f"no budget within {options.tolerance:.0%} of its FLOPs")
            for i in np.flatnonzero(~near)
        ]
        groups = [np.flatnonzero(near & (place == k)).tolist() for k in range(len(nominal))]
        return [(float(c), rows) for c, rows in zip(nominal, groups, strict=True) if rows]
    order = np.argsort(data.flops, kind="stable")
    place = levels(data.flops[order], options.tolerance)
    groups = [order[place == k].tolist() for k in range(place.max(initial=-1) + 1)]
    return [(float(np.exp(np.log(data.flops[rows]).mean())), rows) for rows in groups]


def _pick(budget: BudgetRuns, keep: Any) -> BudgetRuns:
    rows = tuple(budget.rows[i] for i in keep)
    x, log_n, log_d, log_cost = (
        values[keep] for values in (budget.x, budget.log_n, budget.log_d, budget.log_cost)
    )
    return BudgetRuns(budget.flops, x, log_n, log_d, log_cost, budget.loss[keep], rows)


def _one_a_size(budget: BudgetRuns, options: Options, excluded: list[Excluded]) -> BudgetRuns:
    """What `per_size` makes of several rows of one size."""
    starts = np.diff(budget.x, prepend=-np.inf) > SAME[options.curve]
    size = np.cumsum(starts) - 1
    if options.per_size == "all" or starts.all():
        return budget
    off = np.round(np.abs(np.expm1(budget.log_cost - np.log(budget.flops))), 6)
    if options.per_size == "nearest":
        order = np.lexsort((budget.loss, off, size))
    else:
        order = np.lexsort((off, budget.loss, size))
    keep = order[np.diff(size[order], prepend=-1) > 0]
    if options.per_size == "mean":
        count = np.bincount(size)
        parts = (budget.x, budget.log_n, budget.log_d, budget.log_cost, budget.loss)
        names = [" ".join(budget.rows[i] for i in np.flatnonzero(size == k)) for k in range(len(count))]
        x, log_n, log_d, log_cost, loss = (np.bincount(size, values) / count for values in parts)
        return BudgetRuns(budget.flops, x, log_n, log_d, log_cost, loss, tuple(names))
    lost = sorted(set(range(len(budget.x))) - set(keep.tolist()))
    what = "nearer to its budget" if options.per_size == "nearest" else "lower"
    excluded += [Excluded(budget.rows[i], f"another row of its size and budget is {what}") for i in lost]
    return _pick(budget, keep)


def _windowed(budget: BudgetRuns, options: Options, excluded: list[Excluded]) -> BudgetRuns:
    """The sizes within the window around the least loss."""
    if options.window is None:
        return budget
    size = np.cumsum(np.diff(budget.x, prepend=-np.inf) > SAME[options.curve]) - 1
    inside = np.abs(size - size[int(budget.loss.argmin())]) <= options.window
    why = f"more than {options.window} sizes from the least loss of its budget"
    excluded += [Excluded(budget.rows[i], why) for i in np.flatnonzero(~inside)]
    return _pick(budget, np.flatnonzero(inside))


def vertices(budget: BudgetRuns, losses: Floats, options: Options, weights: Floats | None = None) -> Vertices:
    """The minimum of the curve through each row of `losses` [copies, points], or, with weights [copies,
    points] of the squares, through the losses of one row again and again."""
    y = np.log(losses) if options.loss == "log" else losses
    if options.curve == "quadratic":
        lowest = _parabola(budget.x, y, weights)
    elif weights is None:
        lowest = _akima(budget.x, y)
    else:
        lowest = _akima_of_some(budget.x, y[0], weights > 0)
    return replace(lowest, loss=np.exp(lowest.loss)) if options.loss == "log" else lowest


def _parabola(x: Floats, y: Floats, weights: Floats | None) -> Vertices:
    """The vertex of the parabola of least squares."""
    middle, half = float(x.mean()), max(float(np.ptp(x)) / 2, 1e-12)
    u = (x - middle) / half
    design = np.stack([u**2, u, np.ones_like(u)], axis=1)
    if weights is None:
        bend, tilt, level = np.linalg.lstsq(design, y.T, rcond=None)[0]
        few = np.zeros(len(y), dtype=bool)
        low, high = np.full(len(y), u.min()), np.full(len(y), u.max())
    else:
        bend, tilt, level = linear.least_squares(design, y[0], weights).T
        there = weights > 0
        new_size = np.diff(u, prepend=-np.inf) > SAME["quadratic"]
        size = np.cumsum(new_size) - 1
        few = np.array([len(np.unique(size[subset])) < MIN_POINTS for subset in there])
        low, high = np.where(there, u, np.inf).min(1), np.where(there, u, -np.inf).max(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = -tilt / (2 * bend)
        bottom = level - tilt**2 / (4 * bend)
    concave = few | ~(bend > 1e-10 * np.abs(y).max())
    problem = np.where(concave, "concave", np.where((at < low) | (at > high), "edge", ""))
    first = Parabola(middle, float(bend[0]) / half**2, float(tilt[0]) / half, float(level[0]))
    with np.errstate(invalid="ignore"):
        return Vertices(np.where(concave, np.nan, at * half + middle), bottom, problem, first)


def _akima(x: Floats, y: Floats) -> Vertices:
    """The lowest point of the Akima spline, exactly: a root of a piece's derivative, or an end."""
    spline = Akima1DInterpolator(x, y.T)
    cubic, square, slope, level = spline.c  # [pieces, copies]
    width = np.diff(x)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(square**2 - 3 * cubic * slope)
        # The stable form of the larger root, where the second derivative is positive.
        step = -slope / (square + root)
        inside = np.isfinite(step) & (step >= -1e-12 * width) & (step <= width * (1 + 1e-12))
        value = np.where(inside, ((cubic * step + square) * step + slope) * step + level, np.inf)
    best = value.argmin(0)
    copy = np.arange(y.shape[0])
    bottom, at = value[best, copy], (x[:-1, None] + step)[best, copy]
    ends = y[:, [0, -1]]
    end = ends.argmin(1)
    edge = ends[copy, end] <= bottom
    at = np.where(edge, x[[0, -1]][end], at)
    return Vertices(at, np.where(edge, ends[copy, end], bottom), np.where(edge, "edge", ""))


def _akima_of_some(x: Floats, y: Floats, there: Any) -> Vertices:
    """The same through each subset of the points: there [copies, points]."""
    by_subset: dict[bytes, tuple[float, float, str]] = {}
    for subset in there:
        key = subset.tobytes()
        if key in by_subset:
            continue
        if subset.sum() < MIN_POINTS:
            by_subset[key] = (np.nan, np.nan, "concave")
        else:
            lowest = _akima(x[subset], y[None, subset])
            by_subset[key] = (float(lowest.at[0]), float(lowest.loss[0]), str(lowest.problem[0]))
    at, loss, problem = zip(*(by_subset[subset.tobytes()] for subset in there), strict=True)
    return Vertices(np.array(at), np.array(loss), np.array(problem))


def drawn_curve(
    budget: BudgetRuns, parabola: Parabola | None, options: Options, points: int = 40
) -> tuple[Floats, Floats]:
    """The curve through a budget's losses, for a picture: log x [points], loss [points]."""
    grid = np.linspace(budget.x.min(), budget.x.max(), points)
    if parabola is not None:
        y = parabola.at(grid)
    else:
        y = Akima1DInterpolator(budget.x, np.log(budget.loss) if options.loss == "log" else budget.loss)(grid)
    return grid, np.exp(y) if options.loss == "log" else y
