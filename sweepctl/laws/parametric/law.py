"""Method 3: L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, arXiv 2203.15556, section 3.3).

Fitted by the sum of Huber losses of log residuals (equation 3; delta 1e-3), by least absolute log residuals
(what the point estimate of Besiroglu et al. 2024, arXiv 2404.10102, comes down to), or by least squares of
log L or of L (MiniCPM: Hu et al. 2024, arXiv 2404.06395, section 4.4). `solve` in search.py does it.

Given C = 6 N D, the loss is least at N = G (C / 6)^a and D = (C / 6)^b / G with a = beta / (alpha + beta),
b = alpha / (alpha + beta) and G = (alpha A / (beta B))^(1 / (alpha + beta)) (Hoffmann, equation 4); so that
N / D = K2 (C / 6)^eta with K2 = G^2 and eta = a - b (Hu, equation 5). Given C = (k N + k0) D there is no
closed form: the zero of the derivative along the budget is found by Newton's method.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sweepctl.laws.fit import (
    UNKNOWN,
    Estimate,
    Fit,
    Prediction,
    Target,
    claim,
    estimate,
    misfit,
    percentile_interval,
    scattered,
)
from sweepctl.laws.law import Law
from sweepctl.laws.numerics.linear import least_squares, resample, resample_groups
from sweepctl.laws.numerics.rounding import above_rounding
from sweepctl.laws.observations import CannotFit, Floats, Observations
from sweepctl.laws.parametric.search import (
    NEARLY_ABSOLUTE,
    PARAMS,
    STEEPEST,
    Options,
    ParametricSolution,
    refit,
    solve,
)
from sweepctl.laws.shared.new_run import Measured

NAME = "parametric"
SIX_N = (6.0, 0.0)
"""k and k0 of C = 6 N D."""
IN_LINE = 0.999
"""Correlation of log N and log D from which on only one of them was varied."""


def fit(data: Observations, options: Options) -> Fit:
    """The law with 95 % percentile intervals over resampled runs (where runs have several rows) or rows.

    Raises:
        CannotFit: fewer than six rows, only one N or one D, losses that are all equal, factors beyond what
            numbers hold, or FLOPs that are to be counted and do not rise with N.
    """
    _refuse(data)
    per_token = token_flops(data) if options.flops == "counted" else SIX_N
    whole = solve(data.n, data.d, data.loss, options)
    if not np.isfinite(whole.parameters).all():
        raise CannotFit("The law's factors A and B are too large for numbers: give N and D in larger units.")
    params = dict(zip(PARAMS, whole.parameters[0].tolist(), strict=True))
    samples: dict[str, Floats] = {}
    weights, resampled = _weights(data, options)
    if options.replicates:
        drawn = refit(data.n, data.d, data.loss, options, whole, weights).parameters
        samples = dict(zip(PARAMS, drawn.T, strict=True))
    residuals = np.log(loss(params, data.n, data.d)) - np.log(data.loss)
    fit = claim(
        NAME, data, options, params, float(whole.objectives[0]),
        {**samples, **(_derived(samples) if samples else {})}, resampled, whole.starts,
        derived={**_derived(params), **misfit(residuals), **_line(options, per_token)},
        details={
            "points": {"n": data.n.tolist(), "d": data.d.tolist(), "loss": data.loss.tolist()},
            "solved_for_on_the_way": whole.restarted,
            "trunks": list(data.shared_trunks()),
        },
        residuals=residuals.tolist(),
    )  # fmt: skip
    fit.protocol["optimum"] = (
        "C = 6 N D" if options.flops == "six_n" else "C = (k N + k0) D, least relative squares over the rows"
    )
    fit.flags = _flags(data, fit, whole)
    return fit


def _refuse(data: Observations) -> None:
    if len(data) < 6:
        raise CannotFit(
            f"The parametric law has five parameters and needs at least 6 rows; there are {len(data)}."
        )
    for name, values in (("N", data.n), ("D", data.d)):
        if len(np.unique(values)) < 2:
            raise CannotFit(f"The parametric law needs runs at two values of {name}; there is one.")
    if np.ptp(data.loss) < 1e-9 * data.loss.mean():
        raise CannotFit(f"The {len(data)} losses are all {data.loss[0]:g}: there is no law to fit.")


def _weights(data: Observations, options: Options) -> tuple[Floats, str]:
    """How often each row counts in each replicate [replicates, rows], and what was drawn."""
    if "run" in data.labels:
        groups = data.numbers("run")
        if groups.max() + 1 < len(data):
            return resample_groups(groups, options.replicates, options.seed), "resampled runs"
    return resample(len(data), options.replicates, options.seed), "resampled rows"


def token_flops(data: Observations) -> tuple[float, float]:
    """k and k0 of FLOPs a token = k N + k0, by least relative squares over the rows.

    Raises:
        CannotFit: there is no column of FLOPs, FLOPs or tokens were made by C = 6 N D, or FLOPs a token do
            not rise with N.
    """
    if data.accounting.get("flops") == "six_n" or data.accounting.get("d") == "flops / (6 n)":
        raise CannotFit("FLOPs are counted from columns of FLOPs and of tokens; here one is by C = 6 N D.")
    rate = data.flops / data.d
    columns = np.stack([data.n / rate, 1 / rate], axis=1)
    k, k0 = least_squares(columns, np.ones(len(data)))
    rises = above_rounding(k * np.ptp(data.n), rate.max())
    if not (rises and above_rounding(k * data.n + k0, k * data.n).all()):
        raise CannotFit(f"FLOPs a token must rise with N to be counted; their line is {k:.3g} N + {k0:.3g}.")
    return float(k), float(k0)


def loss(params: dict[str, Any], n: Any, d: Any) -> Any:
    """L(N, D) in nats; parameters and arguments broadcast."""
    with np.errstate(all="ignore"):
        return params["E"] + params["A"] * n ** -params["alpha"] + params["B"] * d ** -params["beta"]


def optimum(params: dict[str, Any], flops: Any, per_token: tuple[float, float] = SIX_N) -> tuple[Any, Any]:
    """(N, D) of least loss where C = (k N + k0) D, `per_token` being k and k0; arguments broadcast.

    NaN where the exponents or factors of a replicate leave no optimum.
    """
    k, k0 = per_token
    with np.errstate(all="ignore"):
        shares = _derived(params)
        n = shares["G"] * (np.asarray(flops) / k) ** shares["a"]
        if k0:
            n = _along(params, flops, k, k0, n)
        return n, flops / (k * n + k0)


def _along(params: dict[str, Any], flops: Any, k: float, k0: float, n: Floats) -> Floats:
    """The zero of dL / d log N along C = (k N + k0) D, from the optimum without k0: with s = k N / (k N + k0)
    it is where alpha A / N^alpha = s beta B / D^beta; Newton's method on the log of their ratio."""
    alpha, beta, big_a, big_b = (np.asarray(params[name]) for name in ("alpha", "beta", "A", "B"))
    least = np.log(max(0.0, -k0 / k) * (1 + 1e-6) + 1e-300)
    level = np.log(alpha * big_a) - np.log(beta * big_b)
    t = np.maximum(np.log(n), least)
    for _ in range(100):
        rate = k * np.exp(t) + k0
        share = k * np.exp(t) / rate
        off = level - alpha * t + beta * np.log(flops / rate) - np.log(share)
        step = np.clip(off / (alpha + beta * share + 1 - share), -1, 1)
        t = np.maximum(t + step, least)
        if np.nanmax(np.abs(step), initial=0.0) < 1e-13:
            break
    return np.asarray(np.exp(t))


def per_token_of(fit: Fit) -> tuple[float, float]:
    """k and k0 that a fit's optimum stands on."""
    return fit.derived.get("k", SIX_N[0]), fit.derived.get("k0", SIX_N[1])


def predict(fit: Fit, n: float, d: float) -> Prediction:
    """The loss of a run at (N, D), in nats, with its intervals."""
    value = float(loss(fit.params, n, d))
    draws = loss(fit.arrays(), n, d)
    law = percentile_interval(draws) if fit.samples else (value, value)
    run = measured(fit).prediction((n, d), law, fit.backtests) if "points" in fit.details else None
    if run is not None or not fit.samples:
        return run or Prediction(value, law, law)
    residuals = np.asarray(fit.residuals)
    freedom = max(1, len(residuals) - len(PARAMS))
    scatter = residuals * np.sqrt(len(residuals) / freedom)
    draw = np.random.Generator(np.random.PCG64(fit.protocol["seed"]))
    picks = draw.integers(0, len(scatter), size=(20, len(draws)))
    return scattered(value, draws, draws * np.exp(-scatter[picks]))


def measured(fit: Fit) -> Measured:
    """The law of a fit and its rows."""
    points, delta = fit.details["points"], fit.protocol["delta"]
    deltas = {"huber_log": delta, "lad_log": NEARLY_ABSOLUTE}
    return Measured(
        loss, {name: fit.params[name] for name in PARAMS}, (points["n"], points["d"]), points["loss"],
        fit.details.get("trunks", ()), deltas.get(fit.protocol["objective"], np.inf),
    )  # fmt: skip


def predict_optimum(fit: Fit, flops: float) -> dict[str, Estimate]:
    """N*, D*, tokens a parameter and the loss there at C FLOPs, each with its interval."""
    per_token = per_token_of(fit)
    n, d = optimum(fit.params, flops, per_token)
    samples = fit.arrays()
    drawn_n, drawn_d = optimum(samples, flops, per_token)
    with np.errstate(all="ignore"):
        ratio = estimate(d / n, drawn_d / drawn_n)
    least = estimate(loss(fit.params, n, d), loss(samples, drawn_n, drawn_d))
    run = measured(fit).prediction((n, d), least.interval, fit.backtests) if "points" in fit.details else None
    return {
        "n": estimate(n, drawn_n),
        "d": estimate(d, drawn_d),
        "tokens_per_parameter": ratio,
        "loss": run or least,
    }


def predict_target(fit: Fit, target: Target) -> dict[str, Estimate]:
    """The loss at (n, d), or the optimum at flops; NaN where the rows do not identify it: an optimum without
    both exponents, a loss beyond the only sizes, tokens or ratios that were trained."""
    unknown = {flag.partition(":")[2] for flag in fit.flags if flag.startswith("not_identified")}
    if "flops" in target:
        estimates = predict_optimum(fit, target["flops"])
        return dict.fromkeys(estimates, UNKNOWN) if unknown & {"A", "B", "alpha", "beta"} else estimates
    n, d = (np.asarray(fit.details["points"][role]) for role in ("n", "d"))
    beyond = [
        {"A", "alpha"} <= unknown and not _within(target["n"], n),
        {"B", "beta"} <= unknown and not _within(target["d"], d),
        "collinear:n_d" in fit.flags
        and {"A", "B"} <= unknown
        and not _within(target["d"] / target["n"], d / n),
    ]
    return {"loss": UNKNOWN if any(beyond) else predict(fit, target["n"], target["d"])}


def _within(value: float, trained: Floats) -> bool:
    return bool(0.5 * trained.min() <= value <= 2 * trained.max())


def _flags(data: Observations, fit: Fit, whole: ParametricSolution) -> list[str]:
    log_n, log_d = np.log(data.n), np.log(data.d)
    together = abs(np.corrcoef(log_n, log_d)[0, 1])
    flags = ["collinear:n_d"] if together > 0.98 else []
    unknown = set(_wide(data, fit, whole))
    if together > IN_LINE:
        unknown |= {"A", "B", "alpha", "beta"}
    if len(np.unique(data.n)) < 3:
        unknown |= {"E", "A", "alpha"}
    if len(np.unique(data.d)) < 3:
        unknown |= {"E", "B", "beta"}
    if unknown & {"alpha", "beta"}:
        unknown |= set(_derived(fit.params))
    flags += [f"not_identified:{name}" for name in (*PARAMS, *_derived(fit.params)) if name in unknown]
    params = fit.params
    if params["E"] < 0.02 * data.loss.min():
        flags.append("at_bound:E")
    flags += [f"at_bound:{name}" for name in ("alpha", "beta") if not 0 < params[name] < STEEPEST]
    if fit.protocol["bounds"] == "nonnegative":
        flags += [f"at_bound:{name}" for name in ("A", "B") if params[name] <= 1 + 1e-9]
    if fit.starts.agreeing < 2:
        flags.append("lonely_optimum")
    return flags


def _wide(data: Observations, fit: Fit, whole: ParametricSolution) -> list[str]:
    """Parameters whose interval, or whose standard deviation by the curvature, spans what any law has."""
    spread = dict(zip(PARAMS, whole.spread, strict=True))
    wide = []
    for name in ("alpha", "beta"):
        low, high = fit.intervals.get(name, (fit.params[name],) * 2)
        at_bound = not 0 < fit.params[name] < STEEPEST
        if at_bound or high - low > 1.5 or high > 0.98 * STEEPEST or spread[name] > 0.5:
            wide.append(name)
    for name, exponent in (("A", "alpha"), ("B", "beta")):
        low, high = fit.intervals.get(name, (fit.params[name],) * 2)
        if high > 1e4 * low or exponent in wide:
            wide.append(name)
    low, _ = fit.intervals.get("E", (fit.params["E"],) * 2)
    if low < 0.02 * data.loss.min() or not spread["E"] < 0.5:
        wide.append("E")
    return wide


def _derived(params: dict[str, Any]) -> dict[str, Any]:
    """Exponents and factors of the optimum under C = 6 N D; of replicates as of one."""
    alpha, beta, big_a, big_b = (np.asarray(params[name]) for name in ("alpha", "beta", "A", "B"))
    with np.errstate(all="ignore"):
        total = alpha + beta
        g = (alpha * big_a / (beta * big_b)) ** (1 / total)
        return {"a": beta / total, "b": alpha / total, "G": g, "K2": g**2, "eta": (beta - alpha) / total}


def _line(options: Options, per_token: tuple[float, float]) -> dict[str, float]:
    return dict(zip(("k", "k0"), per_token, strict=True)) if options.flops == "counted" else {}


LAW = Law(
    name=NAME,
    formula="L(N, D) = E + A / N^alpha + B / D^beta",
    source="Hoffmann et al. 2022, section 3.3",
    options=Options,
    needs=("n", "d", "loss"),
    takes=("flops", "run", "trunk"),
    fit=fit,
    predict=predict_target,
    targets=(("n", "d"), ("flops",)),
    of_optima=True,
)
