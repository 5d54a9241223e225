"""Loss at a compute budget: L(C) = E + a C^-b, and how far each run lies from it.

With floor=0 it is the power law L = (C / c)^-b that Cerebras-GPT was fitted by (Dey et al. 2023, arXiv
2304.03208, section 3.1 and figure 5, deviations in percent); with a free floor E that of Henighan et al.
2020 (arXiv 2010.14701, equation 1.1). Fitted on log residuals, from starts with b fixed and E and a solved
for. Rows whose role is target are not fitted: their deviations are those of an extrapolation.

Intervals come by default from copies: the law's losses with log-normal noise of the scatter that is left,
its variance drawn anew for each copy from the scaled inverse chi-squared distribution of so many degrees of
freedom, since budgets are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.fit import Estimate, Fit, Prediction, Target, claim, misfit, percentile_interval, scattered
from sweepctl.laws.law import Law, Resampling, option
from sweepctl.laws.numerics import linear
from sweepctl.laws.numerics.optimize import minimize
from sweepctl.laws.numerics.rounding import above_rounding
from sweepctl.laws.observations import CannotFit, Floats, Observations
from sweepctl.laws.shared import compute_optimal
from sweepctl.laws.shared.levels import levels
from sweepctl.laws.shared.new_run import Measured

NAME = "compute"
STARTS = (0.01, 0.03, 0.06, 0.1, 0.15, 0.22, 0.3, 0.45, 0.7, 1.0, 1.5)
STEEPEST = 4.0
FEW = 5
"""Budgets below which a free floor is not told from a smaller exponent."""


@dataclass(frozen=True, slots=True)
class Options(Resampling):
    """Every choice of the protocol."""

    floor: float | None = option(None, "E in nats; 0 is a pure power law; none: fitted, at least 0")
    objective: Literal["squares", "huber"] = option("squares", "of log residuals")
    delta: float = option(1e-3, "where a Huber loss turns from square to absolute")
    rows: Literal["auto", "all", "best"] = option(
        "auto",
        "rows fitted: all, or the least loss of each budget; auto: best where one holds several sizes N",
    )
    tolerance: float = option(0.1, "with rows=best, share in FLOPs within which rows are of a budget")
    intervals: Literal["copies", "rows"] = option(
        "copies", "replicates: copies of the law with its scatter, or rows drawn with replacement"
    )

    def __post_init__(self) -> None:
        Resampling.__post_init__(self)
        if self.floor is not None and self.floor < 0:
            raise CannotFit(f"compute needs a floor of at least 0, or none; it is {self.floor:g}.")
        if self.delta <= 0:
            raise CannotFit(f"compute needs delta above 0; it is {self.delta:g}.")
        if not 0 < self.tolerance < 1:
            raise CannotFit(f"compute needs a tolerance between 0 and 1; it is {self.tolerance:g}.")


@dataclass(frozen=True)
class PowerFits:
    """Minima of replicates, each [replicates]."""

    floor: Floats
    """E."""
    log_a: Floats
    """log a."""
    b: Floats
    """The exponent."""
    objective: Floats
    """At the minimum."""
    tried: int
    """Starts of the first."""
    agreeing: int
    """Of them, those that end at its minimum."""

    def params(self) -> dict[str, Floats]:
        with np.errstate(over="ignore"):
            return {"E": self.floor, "a": np.exp(self.log_a), "b": self.b}


def fit(data: Observations, options: Options) -> Fit:
    """The law with 95 % intervals, and the deviation of every row.

    Raises:
        CannotFit: fewer than four budgets (three with a fixed floor), losses that do not fall with C, or a
            floor above the losses.
    """
    whole = data
    data = _fitted(data, options)
    free = options.floor is None
    wanted = 4 if free else 3
    log_c, log_l = np.log(data.flops), np.log(data.loss)
    budgets = len(np.unique(np.round(log_c, 3)))
    if budgets < wanted:
        raise CannotFit(
            f"L(C) with {'a free' if free else 'a fixed'} floor needs {wanted} budgets; there are {budgets}."
        )
    if options.floor is not None and options.floor >= data.loss.min():
        raise CannotFit(f"The floor {options.floor:g} is not below the least loss, {data.loss.min():.5g}.")
    if np.ptp(log_l) < 1e-9 or not _falls(log_c, log_l):
        raise CannotFit(f"The {len(data)} losses do not fall with FLOPs: there is no law to fit.")
    solved = solve(log_c, log_l[None], None, options)
    params = {name: float(values[0]) for name, values in solved.params().items()}
    residuals = np.log(loss(params, data.flops)) - log_l
    freedom = len(data) - wanted + 1
    samples = _sample(log_c, log_l, residuals, freedom, options)
    fit = claim(
        NAME, data, options, params, float(solved.objective[0]), samples,
        "copies of the law with its scatter" if options.intervals == "copies" else "rows",
        starts=(solved.tried, solved.agreeing), residuals=residuals.tolist(),
    )  # fmt: skip
    fit.derived = _derived(params, residuals, freedom, budgets, options)
    if options.floor == 0 and samples:
        fit.intervals["c"] = percentile_interval(samples["a"] ** (1 / samples["b"]))
    fit.details = {"deviations": _deviations(params, whole, data)}
    fit.flags = _flags(data, fit, budgets, options)
    return fit


def _falls(log_c: Floats, log_l: Floats) -> bool:
    """Whether the straight line through the logarithms falls."""
    slope = np.polyfit(log_c - log_c.mean(), log_l, 1)[0]
    return bool(above_rounding(-slope * np.ptp(log_c), np.ptp(log_l)))


def loss(params: Mapping[str, Any], flops: Any) -> Any:
    """E + a C^-b in nats; parameters and C broadcast. The power is taken in logarithms: a may be huge."""
    with np.errstate(over="ignore", divide="ignore"):
        return params["E"] + np.exp(np.log(params["a"]) - params["b"] * np.log(flops))


def solve(log_c: Floats, log_l: Floats, weights: Floats | None, options: Options) -> PowerFits:
    """The best law of every replicate: log_c [rows]; log_l [replicates or 1, rows]; weights of the rows
    [replicates, rows] or None. Where E is free, E = 0 is tried as well, and kept where it is no worse."""
    replicates = len(log_l) if weights is None else len(weights)
    log_l = np.broadcast_to(log_l, (replicates, len(log_c)))
    problem = _Problem(log_c, log_l, weights, options)
    if options.floor is not None:
        return problem.search(options.floor)
    bare, free = problem.search(0.0), problem.search(None)
    better = free.objective < bare.objective * (1 - 1e-9) - 1e-16
    parts = {
        name: np.where(better, getattr(free, name), getattr(bare, name))
        for name in ("floor", "log_a", "b", "objective")
    }
    best = free if better[0] else bare
    return PowerFits(**parts, tried=best.tried, agreeing=best.agreeing)


class _Problem:
    """The objective over x = (log a', b[, log E]) with a' = a exp(-b mean(log C)), losses and floors in units
    of the geometric mean of the first replicate's losses."""

    def __init__(self, log_c: Floats, log_l: Floats, weights: Floats | None, options: Options) -> None:
        self.middle, self.level = log_c.mean(), float(log_l[0].mean())
        self.u, self.log_l, self.weights = log_c - self.middle, log_l - self.level, weights
        self.huber = options.objective == "huber"
        self.unit = options.delta if self.huber else 1e-3
        self.replicates = len(log_l)

    def search(self, floor: float | None) -> PowerFits:
        """Every start of the first replicate; the others start at its best and at two exponents."""
        fixed, floor = floor, floor and floor * np.exp(-self.level)
        whole = np.zeros(len(STARTS), dtype=np.int64)
        first = minimize(self.objective(whole, floor), self.starts(whole, STARTS, floor))
        best = int(np.argmin(first.f))
        agreeing = int(np.sum(first.f <= first.f[best] * (1 + 1e-6) + 1e-9))
        if self.replicates == 1:
            return self.natural(first.x[[best]], first.f[[best]], fixed, len(STARTS), agreeing)
        every = np.arange(self.replicates)
        tries = [np.tile(first.x[best], (self.replicates, 1))]
        tries += [self.starts(every, (b,) * self.replicates, floor) for b in (0.05, 0.3)]
        scale = self.scale(first.x[best], floor)
        value = self.objective(np.tile(every, len(tries)), floor)

        def scaled(z: Floats, which: NDArray[np.int64]) -> tuple[Floats, Floats]:
            f, gradient = value(z @ scale.T, which)
            return f, gradient @ scale

        z = np.concatenate(tries) @ np.linalg.inv(scale).T
        minima = minimize(scaled, z, max_iterations=100, tolerance=1e-5)
        pick = minima.f.reshape(len(tries), -1).argmin(0) * self.replicates + every
        return self.natural(minima.x[pick] @ scale.T, minima.f[pick], fixed, len(STARTS), agreeing)

    def scale(self, x: Floats, floor: float | None) -> Floats:
        """S [k, k] such that in z, x = S z, the Gauss-Newton Hessian at x is the unit matrix: the valley of
        E against b is far from round, and replicates all lie in it."""
        power = np.exp(x[0] - x[1] * self.u)
        rest = np.exp(x[2]) if floor is None else floor
        share = power / (power + rest)
        columns = [share, -share * self.u, *([1 - share] if floor is None else [])]
        jacobian = np.stack(columns, axis=1) / self.unit
        residual = np.abs(np.log(power + rest) - self.log_l[0]) / self.unit
        weights = 1 / np.maximum(residual, 1) if self.huber else np.ones_like(residual)
        hessian = jacobian.T @ (weights[:, None] * jacobian)
        hessian += 1e-9 * np.trace(hessian) * np.eye(len(x))
        return np.asarray(np.linalg.inv(np.linalg.cholesky(hessian)).T)

    def natural(self, x: Floats, f: Floats, floor: float | None, tried: int, agreeing: int) -> PowerFits:
        e = np.exp(x[:, 2] + self.level) if floor is None else np.full(len(x), floor)
        log_a = x[:, 0] + x[:, 1] * self.middle + self.level
        return PowerFits(e, log_a, x[:, 1], f * self.unit**2, tried, agreeing)

    def starts(self, rows: NDArray[np.int64], exponents: Any, floor: float | None) -> Floats:
        """For each replicate number and exponent, E and a' by weighted least squares on relative residuals,
        kept inside what the losses allow."""
        points = []
        for row, b in zip(rows, exponents, strict=True):
            level = np.exp(self.log_l[row])
            w = np.ones_like(level) if self.weights is None else self.weights[row]
            column = np.exp(-b * self.u)
            if floor is None:
                design = np.stack([column, np.ones_like(column)], axis=1) / level[:, None]
                gram = design.T @ (w[:, None] * design) + 1e-12 * np.eye(2)
                e = np.linalg.solve(gram, design.T @ w)[1]
                e = float(np.clip(e, 1e-3 * level.min(), 0.99 * level.min()))
            else:
                e = floor
            rest = np.maximum(level - e, 1e-3 * level) / column
            start = [float(np.average(np.log(rest), weights=w)), b]
            points.append([*start, np.log(e)] if floor is None else start)
        return np.array(points)

    def objective(self, rows: NDArray[np.int64], floor: float | None) -> Any:
        """For minimize: sum of squares or Huber losses of log residuals, in units of unit^2, per replicate;
        infinite where b leaves (0, 4)."""
        log_floor = -np.inf if not floor else np.log(floor)

        def value(x: Floats, which: NDArray[np.int64]) -> tuple[Floats, Floats]:
            place = rows[which]
            power = np.clip(x[:, :1] - x[:, 1:2] * self.u, -700, 700)
            constant = x[:, 2:3] if floor is None else np.full((len(x), 1), log_floor)
            top = np.logaddexp(power, constant)
            residual = (top - self.log_l[place]) / self.unit
            if self.huber:
                inside = np.abs(residual) <= 1
                part = np.where(inside, 0.5 * residual**2, np.abs(residual) - 0.5)
                slope = np.clip(residual, -1, 1) / self.unit
            else:
                part, slope = 0.5 * residual**2, residual / self.unit
            if self.weights is not None:
                part, slope = part * self.weights[place], slope * self.weights[place]
            by_power = slope * np.exp(power - top)
            gradient = [by_power.sum(1), -(by_power * self.u).sum(1)]
            if floor is None:
                gradient.append((slope * np.exp(constant - top)).sum(1))
            outside = (x[:, 1] <= 0) | (x[:, 1] > STEEPEST)
            return np.where(outside, np.inf, part.sum(1)), np.stack(gradient, axis=1)

        return value


def predict(fit: Fit, target: Target) -> dict[str, Estimate]:
    """The loss at target["flops"], with the interval of the law and that of a run there."""
    c = target["flops"]
    value = float(loss(fit.params, c))
    draws = loss(fit.arrays(), c)
    law = percentile_interval(draws) if fit.samples else (value, value)
    run = _measured(fit).prediction((c,), law, fit.backtests)
    if run is not None or not fit.samples:
        return {"loss": run or Prediction(value, law, law)}
    draw = np.random.Generator(np.random.PCG64(fit.protocol["seed"]))
    freedom = max(1, round(fit.derived["degrees_of_freedom"]))
    noise = fit.derived["scatter"] * draw.standard_t(freedom, size=(20, len(draws)))
    return {"loss": scattered(value, draws, draws * np.exp(noise))}


def _measured(fit: Fit) -> Measured:
    """The law and the rows that it was fitted to."""
    rows = [row for row in fit.details["deviations"] if row["fitted"]]
    flops, losses = (np.array([row[key] for row in rows]) for key in ("flops", "loss"))
    params = {name: fit.params[name] for name in ("E", "a", "b")}
    delta = fit.protocol["delta"] if fit.protocol["objective"] == "huber" else np.inf
    return Measured(loss, params, (flops,), losses, delta=delta)


def _fitted(data: Observations, options: Options) -> Observations:
    """The rows that are fitted: not those of role target, and with rows=best the least of each budget. Of
    several sizes at one budget only the best is on L(C)."""
    if "role" in data.labels:
        data = data.keep([role != "target" for role in data.label("role")], "its role is target")
    if options.rows == "all" or not len(data):
        return data
    place = levels(data.flops, options.tolerance)
    sizes = len(set(zip(place.tolist(), data.n, strict=True))) if "n" in data else 0
    if options.rows == "auto" and sizes <= place.max() + 1:
        return data
    best = [min(np.flatnonzero(place == k), key=lambda i: data.loss[i]) for k in range(place.max() + 1)]
    return data.keep(np.isin(np.arange(len(data)), best), "another row of its budget is lower")


def _sample(
    log_c: Floats, log_l: Floats, residuals: Floats, freedom: int, options: Options
) -> dict[str, Floats]:
    """Refits: name -> [replicates]."""
    if not options.replicates:
        return {}
    if options.intervals == "rows":
        weights = linear.resample(len(log_c), options.replicates, options.seed)
        enough = [len(np.unique(np.round(log_c[drawn > 0], 3))) >= 3 for drawn in weights]
        solved = solve(log_c, log_l[None], weights[np.array(enough)], options)
    else:
        draw = np.random.Generator(np.random.PCG64(options.seed))
        shape = (options.replicates, len(log_c))
        spread = linear.scatters(float(np.sum(residuals**2)), freedom, options.replicates, draw)
        copies = log_l + residuals + spread[:, None] * draw.standard_normal(shape)
        solved = solve(log_c, copies, None, options)
    return compute_optimal.whole(solved.params())


def _derived(
    params: dict[str, float], residuals: Floats, freedom: int, budgets: int, options: Options
) -> dict[str, float]:
    derived = {
        "budgets": float(budgets),
        "scatter": float(np.sqrt(np.sum(residuals**2) / freedom)),
        "degrees_of_freedom": float(freedom),
        **misfit(residuals),
    }
    if options.floor == 0:
        derived["c"] = float(np.exp(np.log(params["a"]) / params["b"]))
    return derived


def _deviations(params: dict[str, float], whole: Observations, data: Observations) -> list[dict[str, Any]]:
    """Every row, fitted or not, with how far its loss lies above the law in percent of the law."""
    law = loss(params, whole.flops)
    used = set(data.rows)
    return [
        {
            "row": row, "flops": float(c), "loss": float(measured), "law": float(predicted),
            "deviation": 100 * float(measured / predicted - 1), "fitted": row in used,
        }
        for row, c, measured, predicted in zip(whole.rows, whole.flops, whole.loss, law, strict=True)
    ]  # fmt: skip


def _flags(data: Observations, fit: Fit, budgets: int, options: Options) -> list[str]:
    flags = []
    if len(data) > budgets:
        flags.append("repeated:flops")
    if options.floor is None:
        low, _ = fit.intervals.get("E", (fit.params["E"], 0.0))
        if budgets < FEW or not low > 1e-3 * data.loss.min():
            flags.append("not_identified:E")
        if fit.params["E"] < 1e-3 * data.loss.min():
            flags.append("at_bound:E")
    if fit.params["b"] > 0.9 * STEEPEST:
        flags.append("not_identified:b")
    if fit.starts.agreeing < 2:
        flags.append("lonely_optimum")
    return flags


LAW = Law(
    name=NAME,
    formula="L(C) = E + a C^-b",
    source="Dey et al. 2023, section 3.1; Henighan et al. 2020, equation 1.1",
    options=Options,
    needs=("flops", "loss"),
    takes=("n", "d", "role"),
    fit=fit,
    predict=predict,
    targets=(("flops",),),
)
