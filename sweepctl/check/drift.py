"""Does the best learning rate stay where it is as the width grows: the drift of the optimum, what it costs to
carry the base's, and how sure seeds make one of either."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sweepctl.errors import RequestError

Floats = NDArray[np.float64]

LIMIT = 1.0
"""How far the optimum may move, in doublings of the rate. Lingle (2024, arXiv 2404.05728) calls it transfer
where the same point of a grid is best at every width; an optimum that moves by less than a factor of 2 is
found by a grid of such steps, and costs little."""
REACH = 2
"""Places on either side of the lowest loss that its parabola is fitted to: with its neighbours alone it would
follow the noise of three runs."""
DRAWS = 4000
LEVEL = 0.95

Answer = Literal["yes", "no", "not resolved"]
Edge = Literal["", "low", "high"]
CarriedCost = tuple[float, tuple[float, float] | None]


@dataclass(frozen=True, slots=True)
class Optimum:
    """Of the learning rate of one rung; rates are log2."""

    best: float
    """The rate of the grid with the lowest loss."""
    at: float
    """The vertex of the parabola around it."""
    edge: Edge
    """At which end of the grid it lies, so that the optimum may lie beyond."""
    loss: float
    """The lowest of the grid, in nats."""
    cost: float
    """Nats that the base's best rate of the grid loses against this rung's own."""
    cost_interval: tuple[float, float] | None
    """Of the cost, 95 %; None for one seed."""


@dataclass(frozen=True, slots=True)
class TransferVerdict:
    """Whether the learning rate transfers in one row of the table."""

    transfers: Answer
    """The answer."""
    why: str
    """What it stands on."""
    optima: tuple[Optimum, ...]
    """One a rung, the base first."""
    drift: float
    """log2 of the last rung's optimum over the base's."""
    interval: tuple[float, float] | None
    """Of the drift, 95 %; an infinite end is one that the grid does not bound. None for one seed."""
    noise: float | None
    """The standard deviation of one loss around the optimum; None for one seed."""
    same_point: bool
    """Whether every rung has its lowest loss at the same rate of the grid."""


def judge(rates: Floats, losses: Floats) -> TransferVerdict:
    """The verdict on losses: [rungs, seeds, rates] in nats, infinite where a run diverged; the base first.
    `rates` are log2, rising.

    Raises:
        RequestError: fewer than two rungs or three rates, or no run of a rung has a loss.
    """
    if losses.shape[0] < 2 or losses.shape[2] < 3:
        raise RequestError("Transfer is judged from at least two rungs and three learning rates.")
    curves = losses.mean(axis=1)
    if not np.isfinite(curves).any(axis=1).all():
        raise RequestError("Every run of a rung diverged: lower the grid of optimizer.lr.")
    best, at = optima(rates, curves)
    edges = [_edge(i, len(rates)) for i in best]
    sigma, freedom = noise(losses, best)
    by_rung = tuple(
        Optimum(float(rates[place]), float(vertex), edge, float(curve[place]), *carried)
        for curve, place, vertex, edge, carried in zip(
            curves, best, at, edges, _costs(losses, best, sigma, freedom), strict=True
        )
    )
    drift = float(at[-1] - at[0])
    interval = _interval(rates, curves, losses.shape[1], sigma, freedom) if freedom else None
    answer, why = _answer(interval, edges)
    same = len({int(i) for i in best}) == 1
    return TransferVerdict(answer, why, by_rung, drift, interval, sigma if freedom else None, same)


def optima(rates: Floats, curves: Floats) -> tuple[NDArray[np.intp], Floats]:
    """The place of the lowest loss of every curve [..., rates], and the optimum: the vertex of the
    least-squares parabola through the losses up to `REACH` places around it, no further away than the
    neighbours. The rate itself at an edge of the grid, or where a neighbour diverged or it has no vertex."""
    best = np.argmin(curves, axis=-1)
    at = np.array(rates[best])
    for place in range(1, len(rates) - 1):
        here = (best == place) & np.isfinite(curves[..., place - 1]) & np.isfinite(curves[..., place + 1])
        window = _window(place, len(rates))
        x, y = rates[window] - rates[place], curves[here][:, window]
        weights = np.isfinite(y)
        bend, slope = _parabolas(x, np.where(weights, y, 0.0), weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            vertex = np.where(bend > 0, -slope / (2 * bend), 0.0)
        low, high = rates[place - 1] - rates[place], rates[place + 1] - rates[place]
        at[here] = rates[place] + np.clip(vertex, low, high)
    return best, at


def _window(place: int, rates: int) -> slice:
    return slice(max(0, place - REACH), min(rates, place + REACH + 1))


def _parabolas(x: Floats, y: Floats, weights: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Bend and slope of least-squares parabolas: x [points], y and weights [curves, points]."""
    powers = np.stack([np.ones_like(x), x, x**2], axis=-1)
    normal = np.einsum("cp,pi,pj->cij", weights.astype(np.float64), powers, powers)
    right = np.einsum("cp,pi->ci", y, powers)
    coefficients = np.linalg.solve(normal, right[..., None])[..., 0]
    return coefficients[:, 2], coefficients[:, 1]


def noise(losses: Floats, best: NDArray[np.intp]) -> tuple[float, int]:
    """The standard deviation of one loss, and its degrees of freedom (0 for one seed).

    From the losses the verdict uses: at each rung those of the parabola, and of the base's best rate.
    It is what the effects of the rate and of the seed leave of them (a seed's own effect moves no optimum).
    """
    squares, freedom = 0.0, 0
    for rung, place in enumerate(best):
        window = _window(int(place), losses.shape[2])
        used = sorted({*range(window.start, window.stop), int(best[0])})
        cells = losses[rung][:, used]
        cells = cells[:, np.isfinite(cells).all(axis=0)]
        if cells.shape[1] < 2:
            continue
        left = cells - cells.mean(axis=0) - cells.mean(axis=1, keepdims=True) + cells.mean()
        squares += float((left**2).sum())
        freedom += (cells.shape[0] - 1) * (cells.shape[1] - 1)
    return (math.sqrt(squares / freedom) if freedom else 0.0), freedom


def _costs(losses: Floats, best: NDArray[np.intp], sigma: float, freedom: int) -> list[CarriedCost]:
    """For every rung: what the base's best rate costs, and its interval (Student's t on a difference of two
    means, from which the seeds' own effects cancel)."""
    curves, base = losses.mean(axis=1), best[0]
    t = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) if freedom else 0.0
    reach = t * sigma * math.sqrt(2 / losses.shape[1])
    costs: list[CarriedCost] = []
    for curve, place in zip(curves, best, strict=True):
        cost, spread = float(curve[base] - curve[place]), reach if place != base else 0.0
        costs.append((cost, (cost - spread, cost + spread) if freedom else None))
    return costs


def _interval(rates: Floats, curves: Floats, seeds: int, sigma: float, freedom: int) -> tuple[float, float]:
    """Of the drift: the optima of curves with drawn noise (Student's t: the noise itself is estimated)."""
    random = np.random.default_rng(0)
    scale = sigma / math.sqrt(seeds) * np.sqrt(freedom / random.chisquare(freedom, DRAWS))
    drawn = curves + scale[:, None, None] * random.standard_normal((DRAWS, *curves.shape))
    best, at = optima(rates, drawn)
    drift, last = at[:, -1] - at[:, 0], len(rates) - 1
    least = np.where((best[:, -1] == 0) | (best[:, 0] == last), -np.inf, drift)
    most = np.where((best[:, -1] == last) | (best[:, 0] == 0), np.inf, drift)
    outside = math.floor(DRAWS * (1 - LEVEL) / 2)
    return float(np.sort(least)[outside]), float(np.sort(most)[DRAWS - 1 - outside])


def _edge(place: int, rates: int) -> Edge:
    return "low" if place == 0 else "high" if place == rates - 1 else ""


def _answer(interval: tuple[float, float] | None, edges: list[Edge]) -> tuple[Answer, str]:
    if interval is None:
        return "not resolved", "one seed has no interval: more --seeds"
    low, high = interval
    if low >= -LIMIT and high <= LIMIT:
        return "yes", "moves by less than a factor of 2"
    if high < -LIMIT or low > LIMIT:
        return "no", f"{'falls' if high < 0 else 'rises'} by more than a factor of 2"
    at_edge = [edge for edge in (edges[0], edges[-1]) if edge]
    if at_edge:
        return "not resolved", f"an optimum at the {at_edge[0]} end of the grid: widen it"
    return "not resolved", "crosses a factor of 2: more --seeds or longer runs"
