"""The interval of a run that does not exist yet, for every law: what it is made of, and how wide that is.

The logarithm of a measured value is that of the law, plus three things: what each run has of its own, what
the runs of one trunk have in common (their draw of weights and data, their rung's distance from the law), and
the law's own misfit, a smooth function of where a run lies (Kennedy and O'Hagan 2001, Journal of the Royal
Statistical Society B 63). The misfit is a Gaussian process with the Matern 3/2 covariance: close to the rows
their fit has absorbed it, beyond them it grows to all it can be.

How much of the scatter is which, a few sizes say badly. So no single answer is taken: every split is weighed
by the restricted likelihood of the residuals and by a uniform density over splits (for two parts the uniform
shrinkage of Daniels 1999, Canadian Journal of Statistics 27), and the interval is that of the mixture of
Student's t that comes of it. Few sizes leave many splits, and with them wide tails.

That is then held against what the law did: each of the larger sizes predicted from those below. The interval
is scaled by the errors there over what was expected of them, the expectation counting as much as PRIOR sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from sweepctl.laws.fit import LEVEL, HeldOutRow, Interval, Parts, Prediction
from sweepctl.laws.observations import Floats

REACH = 0.5
"""Over which share of the rows' range the misfit changes: a form that is wrong by more than one bend within
the rows shows, by less than one is absorbed by the parameters."""
RATIOS = np.logspace(-1, 1, 9) ** 2
"""Variances of trunk and misfit over that of a run that are weighed: from a tenth to ten times its size."""
PRIOR = 8.0
"""Sizes that the expected error counts as."""
MOST_ROWS = 300
"""More rows than that say no more of the split; evenly spaced ones stand for them."""
DEPENDENT = 1e-7
"""Singular values below this share are no direction of their own."""
STEP = 1e-5
"""Of the differences that derivatives are taken from, as a share."""
WIDE = float(ndtri(0.5 + LEVEL / 2))
"""Standard deviations in the half of a normal interval."""


@dataclass(frozen=True)
class Measured:
    """A law and the rows that it was fitted to."""

    law: Callable[..., Any]
    """law(params, *places): the value at a place."""
    params: Mapping[str, float]
    """Of the law."""
    places: Sequence[Floats]
    """What it goes by, each [rows]."""
    values: Floats
    """What was measured there [rows]."""
    trunks: Sequence[str] = ()
    """The trunk of each; none where rows share none."""
    delta: float = float("inf")
    """Where the misfit that was minimized turns from square to absolute."""

    @np.errstate(all="ignore")
    def prediction(
        self, at: Sequence[float], law: Interval, record: Sequence[HeldOutRow] = ()
    ) -> Prediction | None:
        """The value at a place with the interval of a run there, which that of the law is within; None where
        the rows are no more than the parameters, or the law has no value.

        `record` are rows that were held out and predicted.
        """
        value = float(self.law(self.params, *at))
        there = self._slopes(np.array(at, dtype=np.float64)[:, None])[0]
        scatter = self._scatter() if value > 0 and np.isfinite(value) else None
        parts = None if scatter is None else scatter.parts(np.log(at), there, record_scale(record))
        if parts is None:
            return None
        ends = [end for end in law if np.isfinite(end) and end > 0]
        low, high = (float(value * np.exp(half)) for half in (-parts.half, parts.half))
        low, high = min([low, *ends]), max([high, *ends])
        half = float(np.log(high) - np.log(low)) / 2
        return Prediction(value, law, (low, high), parts.widened(half)) if np.isfinite(half) else None

    def _scatter(self) -> Scatter | None:
        """What the rows say, worked out once for many places; None where the law has no value at one."""
        places = np.stack([np.asarray(part, dtype=np.float64) for part in self.places])
        residuals = np.log(self.values) - np.log(self.law(self.params, *places))
        if not np.isfinite(residuals).all():
            return None
        trunks = tuple(self.trunks)
        rows, slopes = np.log(places.T), self._slopes(places)
        if len(residuals) > MOST_ROWS:
            kept = np.unique(np.linspace(0, len(residuals) - 1, MOST_ROWS).round().astype(int))
            rows, slopes, residuals = rows[kept], slopes[kept], residuals[kept]
            trunks = tuple(trunks[i] for i in kept) if trunks else ()
        return _scatter(rows.tobytes(), slopes.tobytes(), residuals.tobytes(), trunks, self.delta)

    def _slopes(self, places: Floats) -> Floats:
        """Derivatives of log law by the logarithm of each parameter [rows, p] at places [k, rows]; 0 for a
        parameter that is 0."""
        columns = []
        for name, value in self.params.items():
            up, down = (
                np.log(self.law({**self.params, name: value * (1 + step)}, *places)) for step in (STEP, -STEP)
            )
            columns.append((up - down) / (2 * STEP))
        slopes = np.stack(columns, axis=-1)
        return np.ascontiguousarray(np.where(np.isfinite(slopes).all(axis=0), slopes, 0.0))


@lru_cache(maxsize=8)
def _scatter(rows: bytes, slopes: bytes, residuals: bytes, trunks: tuple[str, ...], delta: float) -> Scatter:
    left = np.frombuffer(residuals)
    shaped = [np.frombuffer(part).reshape(len(left), -1) for part in (rows, slopes)]
    return Scatter(shaped[0], shaped[1], left, trunks, delta)


class Scatter:
    """What the residuals of a fit say of a run elsewhere."""

    def __init__(
        self, rows: Floats, slopes: Floats, residuals: Floats, trunks: Sequence[str], delta: float
    ) -> None:
        """`rows`: logarithms of what the law goes by [rows, k]; `slopes` [rows, p] as at the place that is
        asked for; residuals [rows]."""
        self.rows, self.delta = rows, delta
        self.size = np.ptp(rows, axis=0)
        self.size = np.where(self.size > 0, self.size, 1.0)
        self.scale = np.linalg.norm(slopes, axis=0)
        self.scale = np.where(self.scale > 0, self.scale, 1.0)
        left, values, right = np.linalg.svd(slopes / self.scale, full_matrices=True)
        rank = int((values > DEPENDENT * values[0]).sum()) if values.size else 0
        self.inverse = (right[:rank].T / values[:rank]) @ left[:, :rank].T
        free = left[:, rank:]
        self.freedom = free.shape[1]
        self.trunk = np.unique(np.array(trunks), return_inverse=True)[1] if len(trunks) else None
        covariances = [_matern(rows, rows, self.size)]
        if self.trunk is not None:
            covariances.append((self.trunk[:, None] == self.trunk).astype(np.float64))
        self.misfit = covariances[0]
        if self.freedom:
            self._weigh(free.T @ residuals, [free.T @ part @ free for part in covariances])

    def _weigh(self, left: Floats, parts: list[Floats]) -> None:
        """Splits of the variance [splits, parts] (run, misfit, trunk), each one's whole variance and weight,
        from the contrasts of the residuals that no parameter moves [freedom]."""
        ratios = np.array(list(product(RATIOS, repeat=len(parts))))
        shares = np.concatenate([np.ones((len(ratios), 1)), ratios], axis=1)
        self.shares = shares / shares.sum(axis=1, keepdims=True)
        squares, spread = np.empty(len(shares)), np.empty(len(shares))
        for i, (run, *others) in enumerate(self.shares):
            whole = run * np.eye(self.freedom) + sum(s * part for s, part in zip(others, parts, strict=True))
            lower = np.linalg.cholesky(whole)
            solved = np.linalg.solve(lower, left)
            squares[i], spread[i] = solved @ solved, np.log(np.diag(lower)).sum()
        squares += 1e-30
        weights = np.log(self.shares).sum(axis=1) - spread - self.freedom / 2 * np.log(squares)
        kept = weights > weights.max() - 14
        self.shares, self.variance = self.shares[kept], squares[kept] / self.freedom
        self.weights = np.exp(weights[kept] - weights.max())
        self.weights /= self.weights.sum()

    def parts(self, place: Floats, slope: Floats, wider: float = 1.0) -> Parts | None:
        """What the interval of a run at a place [k] is made of, the law's derivatives there being `slope`
        [p]; None where there are no more rows than parameters, or it is out of bounds."""
        if not self.freedom:
            return None
        weight = (slope / self.scale) @ self.inverse
        near = _matern(place[None], self.rows, self.size)[0]
        beyond = max(0.0, 1 - 2 * weight @ near + weight @ self.misfit @ weight)
        common = 0.0 if self.trunk is None else float((np.bincount(self.trunk, weight) ** 2).sum())
        trunk = self.shares[:, 2] if self.trunk is not None else np.zeros(len(self.shares))
        law = _inefficiency(self.delta, np.sqrt(self.variance)) * (weight @ weight)
        split = np.stack(
            [self.shares[:, 0] * law + trunk * common, self.shares[:, 0], trunk, self.shares[:, 1] * beyond]
        )
        split *= self.variance
        if not np.isfinite(split).all():
            return None
        half = wider * _quantile(np.sqrt(split.sum(axis=0)), self.weights, self.freedom)
        mean = split @ self.weights
        return Parts(*(half * np.sqrt(mean / mean.sum())).tolist())


def record_scale(backtests: Sequence[HeldOutRow]) -> float:
    """By how much what the law did to sizes that it was not fitted to scales its intervals: the root of the
    mean square of errors over expected ones, by size, one as expected counting as PRIOR sizes; and Student's
    quantile over the normal one, since a scale from so few is not known itself."""
    by_size: dict[float, list[float]] = {}
    for row in backtests:
        if row.expected > 0:
            by_size.setdefault(row.fitted_up_to, []).append((row.log_error / row.expected) ** 2)
    squares = sum(float(np.mean(of_one)) for of_one in by_size.values())
    sizes = PRIOR + len(by_size)
    return float(np.sqrt((PRIOR + squares) / sizes) * stdtrit(sizes, 0.5 + LEVEL / 2) / WIDE)


def _matern(left: Floats, right: Floats, size: Floats) -> Floats:
    """Covariances of the misfit between places [rows, k], of variance 1."""
    apart = ((left[:, None] - right[None]) / (REACH * size)) ** 2
    distance = np.sqrt(3 * apart.sum(axis=-1))
    return np.asarray((1 + distance) * np.exp(-distance))


def _inefficiency(delta: float, scale: Floats) -> Floats:
    """Variance of estimates that minimize Huber losses over that of least squares, where what scatters is
    normal of a standard deviation `scale` (Huber 1964, Annals of Mathematical Statistics 35)."""
    if not np.isfinite(delta):
        return np.ones_like(scale)
    t = np.clip(delta / scale, 1e-3, 10)
    inside = 2 * ndtr(t) - 1
    squares = inside - 2 * t * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi) + t**2 * (1 - inside)
    return np.asarray(np.maximum(1.0, squares / inside**2))


def _quantile(scales: Floats, weights: Floats, freedom: int) -> float:
    """Half the central LEVEL of a mixture of Student's t of these scales: by bisection."""
    low, high = 0.0, 100 * float(scales.max())
    for _ in range(50):
        middle = (low + high) / 2
        inside = weights @ stdtr(freedom, middle / np.maximum(scales, 1e-300))
        low, high = (middle, high) if inside < 0.5 + LEVEL / 2 else (low, middle)
    return high
