"""Learning-rate schedules as laws of loss curves see them: sums over every update's learning rate.

Steps count updates; a point at step t was measured after the update whose learning rate stands in its row.
Tissue et al. 2024 (arXiv 2408.11029, section 3): S1, the sum of the learning rates, and S2, the sum of a
momentum of their falls. Luo et al. 2025 (arXiv 2503.12811, section 3): every fall weighed by what was trained
since.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from sweepctl.laws.observations import CannotFit, Floats
from sweepctl.spec.learning_rate import rise

LONGEST = 20_000_000
"""Updates of the longest path; more are tokens in the wrong column."""


@dataclass(frozen=True)
class RatePath:
    """The learning rate of every update of a run."""

    first: int
    """Its first update."""
    rates: Floats
    """From the first update to the last."""
    warm: int
    """The place in them where warmup has ended: the first of the peak."""

    @property
    def last(self) -> int:
        return self.first + len(self.rates) - 1

    def places(self, steps: Floats) -> NDArray[np.int64]:
        """Where steps [points] stand in `rates`."""
        return np.rint(steps).astype(np.int64) - self.first


def path(steps: Floats, rates: Floats, last: int, before: RatePath | None, warmup: int | None) -> RatePath:
    """The path through learning rates measured at steps [rows], linear between them, up to step `last`.

    What comes before the first row is the path of the run it was cut from, `before`; without one, a linear
    rise over the first `warmup` updates and the first row's learning rate from there.

    Raises:
        CannotFit: it is longer than LONGEST updates.
    """
    if last > LONGEST:
        raise CannotFit(f"step reaches {last:.3g}; a column of updates ends below {LONGEST:.0e}.")
    order = np.argsort(steps, kind="stable")
    at, value = np.rint(steps[order]).astype(np.int64), rates[order]
    newest = np.append(np.diff(at) > 0, True)
    at, value = at[newest], value[newest]
    start = int(at[0])
    own = np.interp(np.arange(start, last + 1), at, value)
    if before is not None and before.first < start:
        early = before.rates[: start - before.first]
        gap = start - before.first - len(early)
        early = np.concatenate([early, np.full(gap, early[-1])])
        first = before.first
    else:
        first = min(start, 1)
        early = np.full(start - first, value[0])
        if warmup is not None:
            warm = max(first, min(start, warmup))  # the row of step t is measured after update t - 1
            early[: warm - first] *= [rise(step - 1, warmup) for step in range(first, warm)]
    whole = np.concatenate([early, own])
    warm = _warm(whole) if warmup is None else min(max(0, warmup - first), len(whole) - 1)
    return RatePath(first, whole, warm)


def _warm(rates: Floats) -> int:
    """Where the rise at the beginning ends."""
    falls = np.flatnonzero(np.diff(rates) < -1e-9 * rates.max())
    rise = rates[: falls[0] + 1] if falls.size else rates
    return int(np.argmax(rise >= rise.max() * (1 - 1e-9)))


def counted(path: RatePath, warmup: str) -> Floats:
    """The learning rates as they count in S1: those of warmup as at its end ('peak'), as they were ('own') or
    not at all ('none')."""
    rates = path.rates.copy()
    if warmup == "peak":
        rates[: path.warm] = rates[path.warm]
    elif warmup == "none":
        rates[: path.warm] = 0.0
    return rates


def falls(path: RatePath, rise_counts: bool) -> Floats:
    """How far the learning rate fell with each update [updates]; negative where it rose. The rise of warmup
    is left out unless it counts."""
    fallen = -np.diff(path.rates, prepend=path.rates[0])
    if not rise_counts:
        fallen[: path.warm + 1] = 0.0
    return fallen


def annealing(fallen: Floats, momentum: float) -> Floats:
    """S2 after each update: the sum of m_i = momentum m_{i-1} + fall_i (Tissue et al. 2024, equation 1)."""
    return np.cumsum(lfilter([1.0], [1.0, -momentum], fallen))


@dataclass(frozen=True)
class Falls:
    """For every point the falls before it, gathered into bins, [pairs] each."""

    fall: Floats
    """How far the rate falls."""
    rate: Floats
    """The learning rate there."""
    since: Floats
    """S1 of the point minus S1 before the fall."""
    point: NDArray[np.int64]
    """Whose it is, in rising order."""


def gather(path: RatePath, fallen: Floats, sums: Floats, places: NDArray[np.int64], bins: int) -> Falls:
    """The falls before each point, in about `bins` bins of equal total, finer ones just before the point,
    where the law is steep. A bin stands for its falls by their sum and by the mean logarithm of the learning
    rate and mean S1, weighted by size. At most `bins` falls are exact.

    places [points]: where in the path the points are; sums [updates]: S1 after each update.
    """
    where = np.flatnonzero(fallen)
    size = np.abs(fallen[where])
    floor = 1e-8 * max(float(path.rates.max()), 1e-300)
    before = np.where(where > 0, sums[np.maximum(where - 1, 0)], 0.0)
    parts = np.stack(
        [fallen[where], size, size * np.log(np.maximum(path.rates[where], floor)), size * before]
    )
    running = np.concatenate([np.zeros((4, 1)), np.cumsum(parts, axis=1)], axis=1)
    edges = np.arange(len(where) + 1)
    if len(where) > bins:
        total = running[1]
        edges = np.unique(np.searchsorted(total, np.linspace(0, total[-1], bins + 1)).clip(0, len(where)))
        edges[-1] = len(where)
    before_point = np.searchsorted(where, places, side="right")
    whole = np.searchsorted(edges, before_point, side="right") - 1
    doubling = np.concatenate([[0], 2 ** np.arange(40)])
    rows, points = [], []
    for place, (count, full) in enumerate(zip(before_point, whole, strict=True)):
        near = count - doubling
        stops = np.concatenate([edges[:full], near[near >= (edges[full - 1] if full else 0)]])
        stops = np.unique(np.append(stops, min(edges[max(full - 1, 0)], count)))
        taken = np.diff(running[:, stops], axis=1)
        rows.append(np.stack([taken[0], taken[2] / taken[1], sums[places[place]] - taken[3] / taken[1]]))
        points.append(np.full(taken.shape[1], place))
    fall, rate, since = np.concatenate(rows, axis=1) if rows else np.empty((3, 0))
    return Falls(fall, np.exp(rate), np.maximum(since, 0.0), np.concatenate(points).astype(np.int64))
