"""Method 1: the lower envelope of training curves; N*(C), D*(C) and L*(C) as power laws through the points
that touch it.

Each point of a training curve is a loss at F FLOPs, reached by a model of N parameters after D tokens. The
envelope is either the decreasing part of the lower convex hull of (log F, log L) (McLeish et al. 2025, arXiv
2502.06857, section 4.1), or the running minimum of the loss over FLOPs, at the points themselves or at FLOPs
spaced evenly in log (Hoffmann et al. 2022, arXiv 2203.15556, section 3.1: 1,500 of them). Unweighted
straight lines through (log F, log N), (log F, log D) and (log F, log L) of those points give the laws.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.fit import Fit, claim
from sweepctl.laws.law import Law, Resampling, option
from sweepctl.laws.numerics import linear
from sweepctl.laws.observations import CannotFit, Floats, Mask, Observations
from sweepctl.laws.shared import compute_optimal

NAME = "envelope"
LEAST, FEW = 3, 6
"""Points of an envelope that a line needs, and below which it is flagged."""

CHUNK = 2_000_000
"""Numbers a temporary array may have."""


@dataclass(frozen=True, slots=True)
class Options(Resampling):
    """Every choice of the protocol."""

    method: Literal["hull", "minimum"] = option("hull", "lower convex hull, or running minimum over FLOPs")
    bins: int = option(0, "of a running minimum: FLOPs, even in log, where it is taken; 0: at every point")
    edges: Literal["keep", "drop"] = option(
        "keep", "FLOPs at which the smallest or the largest size is on the envelope, and beyond"
    )

    def __post_init__(self) -> None:
        Resampling.__post_init__(self)
        if self.bins < 0:
            raise CannotFit(f"envelope needs bins of at least 0; there are {self.bins}.")
        if self.bins and self.method == "hull":
            raise CannotFit("envelope takes bins with method=minimum only: a hull has none.")


@dataclass(frozen=True)
class CurvePoints:
    """Points of training curves in rising order of FLOPs: natural logarithms [points]."""

    log_c: Floats
    """Of FLOPs."""
    log_n: Floats
    """Of parameters."""
    log_d: Floats
    """Of tokens."""
    log_l: Floats
    """Of the loss."""
    unit: NDArray[np.int64]
    """The number of what is resampled with each: its run, or itself."""


@dataclass(frozen=True)
class Envelope:
    """Envelopes of replicates over shared FLOPs."""

    log_c: Floats
    """The FLOPs [places]."""
    on: Mask
    """Where there is a point [replicates, places]."""
    source: NDArray[np.int64]
    """The row of CurvePoints that it is, or begins at: [replicates, places] or [places]."""
    logs: dict[str, Floats]
    """n, d and loss -> their logs: [places] or [replicates, places]."""


def fit(data: Observations, options: Options) -> Fit:
    """N*(C), D*(C) and L*(C) with 95 % intervals from curves, or else points, drawn with replacement.

    Raises:
        CannotFit: fewer than two sizes, or fewer than three points on the envelope.
    """
    if len(np.unique(data.n)) < 2:
        raise CannotFit("An envelope needs training curves of two sizes at least; there is one size.")
    order = np.lexsort((data.loss, data.flops))
    runs = data.labels.get("run")
    unit = np.unique(np.array(runs), return_inverse=True)[1] if runs else np.arange(len(data))
    by_run = runs is not None and unit.max() > 0
    unit = np.asarray(unit if by_run else np.arange(len(data)), dtype=np.int64)
    log_c, log_n, log_d, log_l = (np.log(v[order]) for v in (data.flops, data.n, data.d, data.loss))
    points = CurvePoints(log_c, log_n, log_d, log_l, unit[order])
    units = int(unit.max()) + 1
    whole = _envelope(points, np.ones((1, units), dtype=bool), options, by_run)
    touch = np.flatnonzero(whole.on[0])
    if len(touch) < LEAST:
        raise CannotFit(
            f"The envelope of {len(data)} points has {len(touch)} where the loss falls with FLOPs; a line "
            f"through them needs {LEAST}."
        )
    params = compute_optimal.powers(
        whole.log_c, {k: np.atleast_2d(v)[0] for k, v in whole.logs.items()}, whole.on[0] * 1.0
    )
    samples = _sample(points, units, options, by_run)
    rows = np.broadcast_to(whole.source, whole.on.shape)[0, touch]
    places = order[rows]
    residual = np.broadcast_to(whole.logs["n"], whole.on.shape)[0, touch] - (
        np.log(params["k_n"]) + params["a"] * whole.log_c[touch]
    )
    fit = claim(
        NAME, data, options, {k: float(v) for k, v in params.items()}, float(np.sum(residual**2)), samples,
        "runs" if by_run else "points",
        derived={"points": len(touch), "sizes": len(np.unique(data.n[places]))},
        details=_details(data, whole, touch, places),
    )  # fmt: skip
    fit.protocol["residual"] = "sum of squares of log N*"
    fit.flags = _flags(data, places, fit)
    return fit


def lower_hull(x: Floats, y: Floats, present: Mask) -> Mask:
    """The decreasing part of the lower convex hull of each replicate's points: [replicates, points].

    x: [points] in rising order, those of equal x in rising order of y; y: [points]; present: [replicates,
    points]. The hull begins at the leftmost point and turns to the point of steepest descent (Jarvis 1973)
    until the loss falls no more; of points in a line only the ends are on it.
    """
    replicates, points = present.shape
    on = np.zeros((replicates, points), dtype=bool)
    at = np.where(present.any(1), present.argmax(1), -1)
    alive = np.flatnonzero(at >= 0)
    while alive.size:
        here = at[alive]
        on[alive, here] = True
        run = x - x[here, None]
        ahead = present[alive] & (run > 0)
        slope = np.where(ahead, y - y[here, None], np.inf) / np.where(run > 0, run, 1.0)
        steepest = slope.min(1)
        ties = slope <= (steepest + 1e-12 * np.abs(np.where(np.isfinite(steepest), steepest, 0)))[:, None]
        further = points - 1 - ties[:, ::-1].argmax(1)
        falls = steepest < 0
        at[alive] = further
        alive = alive[falls]
    return on


def running_minimum(y: Floats, present: Mask) -> Mask:
    """The points lower than every present one before them: y [points] or [replicates, points], present
    [replicates, points], in rising order of FLOPs."""
    present_loss = np.where(present, y, np.inf)
    before = np.minimum.accumulate(present_loss, axis=1)
    before = np.concatenate([np.full((len(present_loss), 1), np.inf), before[:, :-1]], axis=1)
    return np.asarray(present_loss < before)


def _envelope(points: CurvePoints, drawn: Mask, options: Options, by_run: bool) -> Envelope:
    """The envelopes of replicates; `drawn` [replicates, units]."""
    if options.bins and by_run:
        return _inner(points, _interpolated(points, drawn, options.bins), drawn, options)
    present = drawn[:, points.unit]
    if options.method == "hull":
        on = lower_hull(points.log_c, points.log_l, present)
    else:
        least = _least_of_bins(points, present, options.bins) if options.bins else present
        on = running_minimum(points.log_l, least)
    logs = {"n": points.log_n, "d": points.log_d, "loss": points.log_l}
    return _inner(points, Envelope(points.log_c, on, np.arange(len(points.log_c)), logs), drawn, options)


def _interpolated(points: CurvePoints, drawn: Mask, bins: int) -> Envelope:
    """The least loss of the curves at each of `bins` FLOPs; between two points a curve's log L and log D are
    straight over log C."""
    grid = np.linspace(points.log_c[0], points.log_c[-1], bins)
    units = drawn.shape[1]
    log_l, log_n, log_d = (np.full((units, bins), np.inf) for _ in range(3))
    first = np.zeros((units, bins), dtype=np.int64)
    for unit in range(units):
        rows = np.flatnonzero(points.unit == unit)
        c = points.log_c[rows]
        inside = (grid >= c[0]) & (grid <= c[-1])
        for values, into in ((points.log_l, log_l), (points.log_n, log_n), (points.log_d, log_d)):
            into[unit, inside] = np.interp(grid[inside], c, values[rows])
        first[unit, inside] = rows[np.searchsorted(c, grid[inside], side="right") - 1]
    best = np.empty((len(drawn), bins), dtype=np.int64)
    for replicate, there in enumerate(drawn):
        best[replicate] = np.where(there[:, None], log_l, np.inf).argmin(0)
    place = np.arange(bins)
    least = np.where(drawn[np.arange(len(drawn))[:, None], best], log_l[best, place], np.inf)
    logs = {"n": log_n[best, place], "d": log_d[best, place], "loss": least}
    return Envelope(grid, running_minimum(least, np.isfinite(least)), first[best, place], logs)


def _least_of_bins(points: CurvePoints, present: Mask, bins: int) -> Mask:
    """Of the present points only the one of least loss in each of `bins` bins of log C."""
    edges = np.linspace(points.log_c[0], points.log_c[-1], bins + 1)
    place = np.clip(np.searchsorted(edges, points.log_c, side="right") - 1, 0, bins - 1)
    order = np.lexsort((points.log_l, place))
    start = np.concatenate([[True], np.diff(place[order]) > 0])
    there = present[:, order]
    count = np.cumsum(there, axis=1)
    before = np.maximum.accumulate(np.where(start, count - there, 0), axis=1)
    least = np.zeros_like(present)
    least[:, order] = there & (count - before == 1)
    return least


def _inner(points: CurvePoints, envelope: Envelope, drawn: Mask, options: Options) -> Envelope:
    """Where edges are dropped, only the FLOPs above the last at which the smallest size drawn is on the
    envelope, and below the first at which the largest is."""
    if options.edges == "keep":
        return envelope
    there, log_n, log_c = drawn[:, points.unit], envelope.logs["n"], envelope.log_c
    smallest = np.where(there, points.log_n, np.inf).min(1)[:, None]
    largest = np.where(there, points.log_n, -np.inf).max(1)[:, None]
    low = np.where(envelope.on & (log_n <= smallest + 1e-9), log_c, -np.inf).max(1)[:, None]
    high = np.where(envelope.on & (log_n >= largest - 1e-9), log_c, np.inf).min(1)[:, None]
    return Envelope(log_c, envelope.on & (log_c > low) & (log_c < high), envelope.source, envelope.logs)


def _sample(points: CurvePoints, units: int, options: Options, by_run: bool) -> dict[str, Floats]:
    """The power laws of replicates with units drawn with replacement: name -> [replicates]. Replicates whose
    envelope has fewer than three points go."""
    if not options.replicates:
        return {}
    drawn = linear.resample(units, options.replicates, options.seed) > 0
    size = max(1, CHUNK // max(len(points.log_c), options.bins))
    parts = []
    for begin in range(0, len(drawn), size):
        envelopes = _envelope(points, drawn[begin : begin + size], options, by_run)
        enough = envelopes.on & (envelopes.on.sum(1) >= LEAST)[:, None]
        parts.append(compute_optimal.powers(envelopes.log_c, envelopes.logs, enough.astype(np.float64)))
    return compute_optimal.whole({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _details(data: Observations, envelope: Envelope, touch: Any, places: Any) -> dict[str, Any]:
    """The points of the envelope, which curves touch it, and every point for the picture."""
    n, d, loss = (
        np.exp(np.broadcast_to(envelope.logs[k], envelope.on.shape)[0, touch]) for k in ("n", "d", "loss")
    )
    curves = data.labels.get("run") or tuple(f"{size:.6g} parameters" for size in data.n)
    return {
        "envelope": [
            {"flops": float(c), "n": float(n_), "d": float(d_), "loss": float(l_), "curve": curves[place]}
            for c, n_, d_, l_, place in zip(np.exp(envelope.log_c[touch]), n, d, loss, places, strict=True)
        ],
        "touching": dict(Counter(curves[place] for place in places)),
        "curves": sorted(set(curves)),
        "points": {
            "flops": data.flops.tolist(), "n": data.n.tolist(), "loss": data.loss.tolist(),
            "curve": list(curves),
        },
    }  # fmt: skip


def _flags(data: Observations, places: Any, fit: Fit) -> list[str]:
    flags = []
    if len(places) < FEW:
        flags.append(f"few_points:{len(places)}")
    sizes = data.n[places]
    count = len(np.unique(sizes))
    if count < 3:
        flags.append(f"few_models:{count}")
    ratios = data.d[places] / data.n[places]
    if count == 1 or np.ptp(np.log(ratios)) < 0.01:  # the envelope then only says how the runs were chosen
        flags += [f"not_identified:{name}" for name in ("a", "k_n", "b", "k_d")]
    for name, extreme in (("smallest", data.n.min()), ("largest", data.n.max())):
        if np.mean(sizes == extreme) > 0.25:
            flags.append(f"edge:{name}_n")
    if fit.protocol["replicates"] and len(fit.samples.get("a", [])) < fit.protocol["replicates"] / 2:
        flags.append("few_replicates")
    return flags


LAW = Law(
    name=NAME,
    formula="N*(C) = k_n C^a, D*(C) = k_d C^b, L*(C) = k_l C^c along the lower envelope of curves",
    source="Hoffmann et al. 2022, section 3.1; McLeish et al. 2025, section 4.1",
    options=Options,
    needs=("n", "d", "flops", "loss"),
    takes=("run",),
    fit=fit,
    predict=compute_optimal.predict,
    targets=(("flops",),),
    annealed=False,
    reduced=False,
    table="curves",
    held_out="best",
    of_optima=True,
)
