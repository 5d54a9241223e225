"""Where along a grid the loss is least: the vertex of a parabola over the logarithm of the value, and between
which values it lies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any

REACH = 2.0
"""Octaves on either side of the lowest loss that the parabola is laid through: with its neighbours alone it
would follow the noise of three runs."""
STEEP = 0.1
"""A loss this share above the lowest is up a slope that no parabola describes."""
SCATTER = 0.004
"""Of a run's loss, as a share of it, before anything of it is known."""
WEIGHT = 2
"""Degrees of freedom that SCATTER counts as beside what seeds and residuals show."""
SKEW = 0.15
"""Octaves by which a parabola's vertex may miss the optimum of a curve that is steeper on one side."""
DIGITS = 3
"""Significant digits of a vertex: the cost of rounding is nothing, and a name stays that can be read."""
LEVEL = 0.95

Losses = Mapping[Any, Mapping[str, float]]
"""Value -> seed -> loss; infinite where the run diverged."""


@dataclass(frozen=True, slots=True)
class GridOptimum:
    """The value with the least loss."""

    value: Any
    """The vertex, rounded; the grid's own value where there is no parabola."""
    interval: tuple[float | None, float | None]
    """Between which values it lies, 95 %; None at an end that the grid does not bound."""
    bend: float | None
    """What an octave away from it costs, as a share of the loss; grows as its square. None without a
    parabola."""
    flags: tuple[str, ...]
    """What to know of it: of FLAGS."""

    def cost(self, value: float) -> tuple[float, float, float] | None:
        """What another value costs, as a share of the loss: by the vertex, and between which shares."""
        if self.bend is None:
            return None
        away = math.log2(value)
        ends = [away - math.log2(end) if end else math.copysign(REACH, side) for end, side in
                zip(self.interval, (1, -1), strict=True)]  # fmt: skip
        least = 0.0 if ends[0] * ends[1] <= 0 else min(map(abs, ends))
        at = away - math.log2(self.value)
        return self.bend * at**2, self.bend * least**2, self.bend * max(map(abs, [*ends, at])) ** 2


FLAGS = {
    "edge": "an edge of its grid: the optimum may lie beyond",
    "steep": "a neighbour diverged or lies up a steep side, so there is no parabola: the lowest of the grid",
    "near_tie": "another value is as low within the scatter of runs: more seeds would tell",
    "wide": "the optimum is less sure than the grid's step: more seeds or a longer budget would tell",
    "no_logarithm": "a parabola needs values above 0 that are not whole: the lowest of the grid",
}
"""What can be flagged, in words."""


def optimum(losses: Losses) -> GridOptimum:
    """The optimum of a grid of values, at least one of which has a finite mean loss."""
    means = {value: fmean(by_seed.values()) for value, by_seed in losses.items()}
    if not _have_logarithms(means):
        return GridOptimum(min(means, key=lambda v: means[v]), (None, None), None, ("no_logarithm",))
    values = sorted(means)
    place = min(range(len(values)), key=lambda i: means[values[i]])
    best, least = values[place], means[values[place]]
    near = values[max(0, place - 1) : place + 2]
    window = _window(values, place, means)
    fit = _Parabola(window, means, losses) if len(window) >= 3 else None
    scatter = fit.scatter if fit else _scatter(_paired(losses, window), 0.0, 0, _seeds(losses, window))[0]
    flags = []
    if any(v != best and means[v] - least <= math.sqrt(2) * scatter * least for v in values):
        flags.append("near_tie")
    outside: tuple[float | None, float | None] = (near[0], near[-1])
    if place in (0, len(values) - 1):
        low, high = place == 0, place == len(values) - 1
        outside = (None if low else near[0], None if high else near[-1])
        bend = significant(fit.bend) if fit and fit.bend > 0 else None
        return GridOptimum(best, outside, bend, ("edge", *flags))
    if not set(near) <= set(window) or fit is None:
        return GridOptimum(best, outside, None, ("steep", *flags))
    if (
        not window[0] < fit.vertex < window[-1]
    ):  # noise far from it bends the curve: through three it is bound
        fit = _Parabola(near, means, losses)
    ends = [end if end is not None and values[0] <= end <= values[-1] else None for end in fit.interval()]
    step = max(near[1] / near[0], near[2] / near[1])
    if ends[0] is None or ends[1] is None or ends[1] / ends[0] > step:
        flags.append("wide")
    rounded = [None if end is None else significant(end) for end in ends]
    return GridOptimum(significant(fit.vertex), (rounded[0], rounded[1]), significant(fit.bend), tuple(flags))


def _have_logarithms(values: Iterable[Any]) -> bool:
    """Whether values are numbers above 0; not where all are whole, which they have to stay."""
    kinds = {type(value) for value in values}
    return kinds <= {int, float} and float in kinds and all(value > 0 for value in values)


def _window(values: Sequence[float], place: int, means: Mapping[float, float]) -> list[float]:
    """The lowest and what surrounds it: its neighbours and all within REACH, up to where it becomes steep."""
    best = values[place]
    window = [best]
    for side in (values[:place][::-1], values[place + 1 :]):
        for i, value in enumerate(side):
            far = i > 0 and abs(math.log2(value / best)) > REACH * (1 + 1e-6)
            if far or means[value] > (1 + STEEP) * means[best]:
                break
            window.append(value)
    return sorted(window)


def significant(value: float) -> float:
    """Rounded to DIGITS."""
    return float(f"{value:.{DIGITS}g}")


class _Parabola:
    """The parabola of least squares through mean losses, as shares of the least, over log2 of the value."""

    def __init__(self, window: Sequence[float], means: Mapping[float, float], losses: Losses) -> None:
        least = min(means[v] for v in window)
        self.center = fmean(math.log2(v) for v in window)
        x = [math.log2(v) - self.center for v in window]
        y = [means[v] / least - 1 for v in window]
        # In an orthogonal basis every coefficient is a ratio of two sums, and no system is solved.
        square = sum(a * a for a in x)
        tilt = sum(a**3 for a in x) / square
        curve = [a * a - tilt * a - square / len(x) for a in x]
        curved = sum(c * c for c in curve)
        self.bend = sum(c * b for c, b in zip(curve, y, strict=True)) / curved
        straight = sum(a * b for a, b in zip(x, y, strict=True)) / square
        self.slope = straight - self.bend * tilt
        level = fmean(y)
        rss = sum((b - level - straight * a - self.bend * c) ** 2
                  for a, b, c in zip(x, y, curve, strict=True))  # fmt: skip
        self.scatter, self.quantile = _scatter(
            _paired(losses, window), rss, len(window) - 3, _seeds(losses, window)
        )
        self.of_bend = 1 / curved
        self.of_both = -tilt / curved
        self.of_slope = 1 / square + tilt**2 / curved

    @property
    def vertex(self) -> float:
        """Of the value; infinite where the curve does not bend upwards."""
        if self.bend <= 0:
            return math.inf
        return float(2 ** min(self.center - self.slope / (2 * self.bend), 1000.0))

    def interval(self) -> tuple[float | None, float | None]:
        """Every value at which the slope may be 0 (Fieller 1954, Journal of the Royal Statistical Society B
        16); open where the bend may be 0 too."""
        noise = (self.quantile * self.scatter) ** 2
        square = 4 * (self.bend**2 - noise * self.of_bend)
        if square <= 0:
            return None, None
        half = 2 * (self.bend * self.slope - noise * self.of_both)
        rest = self.slope**2 - noise * self.of_slope - (2 * self.bend * SKEW) ** 2
        root = math.sqrt(max(0.0, half**2 - square * rest))
        low, high = ((-half + sign * root) / square + self.center for sign in (-1, 1))
        return (2**low if low > -1000 else None), (2**high if high < 1000 else None)


def _seeds(losses: Losses, window: Sequence[float]) -> int:
    return min(len(losses[v]) for v in window)


def _paired(losses: Losses, window: Sequence[float]) -> tuple[float, int]:
    """Squares, relative to the least mean, and degrees of freedom of what the effects of the value and of the
    seed leave of the losses: a seed's own effect moves no optimum."""
    seeds = sorted(set.intersection(*(set(losses[v]) for v in window)))
    if len(seeds) < 2 or len(window) < 2:
        return 0.0, 0
    of_value = {v: fmean(losses[v][s] for s in seeds) for v in window}
    of_seed = {s: fmean(losses[v][s] for v in window) for s in seeds}
    middle = fmean(of_value.values())
    left = sum((losses[v][s] - of_value[v] - of_seed[s] + middle) ** 2 for v in window for s in seeds)
    return left / min(of_value.values()) ** 2, (len(window) - 1) * (len(seeds) - 1)


def _scatter(paired: tuple[float, int], rss: float, freedom: int, seeds: int) -> tuple[float, float]:
    """The standard deviation of a mean loss over seeds, as a share of it, from SCATTER, seeds and the
    residuals of the means; and Student's quantile for it."""
    whole = WEIGHT + paired[1] + freedom
    variance = (WEIGHT * SCATTER**2 + paired[0] + seeds * rss) / whole
    return math.sqrt(variance / seeds), _student(whole)


def _student(freedom: int) -> float:
    """Student's quantile for the half of LEVEL, within 4 % from two degrees of freedom: the first terms of
    its expansion (Abramowitz and Stegun 1964, 26.7.5)."""
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
