"""Method 3: L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, arXiv 2203.15556, section 3.3).

Fitted by the sum of Huber losses of log residuals (equation 3; delta 1e-3), over the log-sum-exp form. The
search starts from a grid of exponents with the three linear parameters solved for, in variables centred on
the data, so that most starts reach the same minimum; how many do is reported.

Given C = 6 N D, the loss is least at N = G (C / 6)^a and D = (C / 6)^b / G with a = beta / (alpha + beta),
b = alpha / (alpha + beta) and G = (alpha A / (beta B))^(1 / (alpha + beta)) (equation 4).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.law import (
    CannotFit,
    Estimate,
    Fit,
    Floats,
    Law,
    Observations,
    Prediction,
    Resampling,
    Target,
    estimate,
    option,
    percentile_interval,
)  # fmt: skip
from sweepctl.laws.optimize import Minima, minimize

NAME = "parametric"
PARAMS = ("E", "A", "B", "alpha", "beta")
Objective = Literal["huber_log", "lad_log", "squares_log", "squares"]


@dataclass(frozen=True, slots=True)
class Options(Resampling):
    """Every choice of the protocol."""

    objective: Objective = option(
        "huber_log", "sum of Huber losses, absolutes or squares of log residuals; squares of L"
    )
    delta: float = option(1e-3, "where the Huber loss turns from square to absolute")
    starts: Literal["grid", "hoffmann"] = option("grid", "49 with E, A, B solved for, or the 4,500 published")
    bounds: Literal["none", "nonnegative"] = option("none", "nonnegative: log A, log B, alpha, beta, E >= 0")
    exponents: tuple[float, ...] = option(
        (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4), "alpha and beta of the starts"
    )

    def __post_init__(self) -> None:
        Resampling.__post_init__(self)
        if self.delta <= 0 or not self.exponents:
            raise CannotFit("parametric needs delta above 0 and at least one exponent.")


def fit(data: Observations, options: Options) -> Fit:
    """The law with 95 % percentile intervals over resampled rows.

    Raises:
        CannotFit: fewer than six rows, or only one N or one D.
    """
    if len(data) < 6:
        raise CannotFit(
            f"The parametric law has five parameters and needs at least 6 rows; there are {len(data)}."
        )
    for name, values in (("N", data.n), ("D", data.d)):
        if len(np.unique(values)) < 2:
            raise CannotFit(f"The parametric law needs runs at two values of {name}; there is one.")
    if np.ptp(data.loss) < 1e-9 * data.loss.mean():
        raise CannotFit(f"The {len(data)} losses are all {data.loss[0]:g}: there is no law to fit.")
    frame = _Frame(data)
    found = _search(frame, options)
    best = int(np.argmin(found.f))
    agreeing = int(np.sum(found.f <= found.f[best] * (1 + 1e-6) + 1e-9))
    params = dict(zip(PARAMS, frame.natural(found.x[best : best + 1])[0].tolist(), strict=True))
    samples = _bootstrap(frame, found.x[best], options)
    residuals = np.log(loss(params, data.n, data.d)) - np.log(data.loss)
    made = Fit(
        law=NAME,
        protocol={**asdict(options), "objective": "sum of Huber losses of log residuals",
                  "intervals": "95 % percentiles over resampled rows"},
        accounting=dict(data.accounting),
        params=params,
        intervals={name: percentile_interval(values) for name, values in samples.items()},
        objective=float(found.f[best] * options.delta**2),
        rows_used=list(data.rows),
        rows_excluded=[{"row": row, "reason": reason} for row, reason in data.excluded],
        starts={"tried": len(found.f), "agreeing": agreeing},
        samples={name: values.tolist() for name, values in samples.items()},
        details={"points": {"n": data.n.tolist(), "d": data.d.tolist(), "loss": data.loss.tolist()}},
        residuals=residuals.tolist(),
    )  # fmt: skip
    made.flags = _flags(data, made)
    made.derived = _derived(made)
    if samples:
        low, high = percentile_interval(samples["beta"] / (samples["alpha"] + samples["beta"]))
        made.intervals |= {"a": (low, high), "b": (1 - high, 1 - low)}
    return made


@dataclass(frozen=True)
class Solved:
    """Minima of the objective: `parameters` [1 or replicates, 5] in the order of PARAMS, `objectives` there
    [1 or replicates] in the protocol's own units, and of the search how many starts were tried and agree."""

    parameters: Floats
    objectives: Floats
    starts: tuple[int, int]


def solve(n: Floats, d: Floats, loss: Floats, options: Options, weights: Floats | None = None) -> Solved:
    """The parameters that minimize the objective over rows: n, d, loss [rows].

    Without weights, from every start; with weights [replicates, rows], which multiply the rows' terms, each
    replicate from the optimum of the unweighted rows.
    """
    if (options.objective, options.starts, options.bounds) != ("huber_log", "grid", "none"):
        raise CannotFit("not there yet")
    frame = _Frame(Observations.of(n=n, d=d, loss=loss))
    found = _search(frame, options)
    best = int(np.argmin(found.f))
    starts = len(found.f), int(np.sum(found.f <= found.f[best] * (1 + 1e-6) + 1e-9))
    if weights is None:
        return Solved(frame.natural(found.x[[best]]), found.f[[best]] * options.delta**2, starts)
    again = minimize(
        lambda x, which: _fenced(frame, x, options.delta, weights[which]),
        np.tile(found.x[best], (len(weights), 1)),
        max_iterations=300,
    )
    return Solved(frame.natural(again.x), again.f * options.delta**2, starts)


def loss(params: dict[str, Any], n: Any, d: Any) -> Any:
    """L(N, D) in nats; parameters and arguments broadcast."""
    return params["E"] + params["A"] * n ** -params["alpha"] + params["B"] * d ** -params["beta"]


def optimum(params: dict[str, Any], flops: Any) -> tuple[Any, Any]:
    """(N, D) of least loss where C = 6 N D."""
    alpha, beta = params["alpha"], params["beta"]
    total = alpha + beta
    g = (alpha * params["A"] / (beta * params["B"])) ** (1 / total)
    n = g * (flops / 6) ** (beta / total)
    return n, flops / (6 * n)


def predict(made: Fit, n: float, d: float) -> Prediction:
    """The loss of a run at (N, D), in nats, with its intervals."""
    value = float(loss(made.params, n, d))
    samples = _sample_arrays(made)
    if not samples:
        return Prediction(value, (value, value), (value, value))
    draws = loss(samples, n, d)
    residuals = np.asarray(made.residuals)
    freedom = max(1, len(residuals) - len(PARAMS))
    scatter = residuals * np.sqrt(len(residuals) / freedom)
    picks = np.random.Generator(np.random.PCG64(made.protocol["seed"])).integers(
        0, len(scatter), size=(20, len(draws))
    )
    runs = draws * np.exp(-scatter[picks])
    law, run = percentile_interval(draws), percentile_interval(runs.ravel())
    return Prediction(value, law, (min(law[0], run[0]), max(law[1], run[1])))


def predict_optimum(made: Fit, flops: float) -> dict[str, Estimate]:
    """N*, D*, tokens a parameter and the loss there at C FLOPs, each with its interval."""
    n, d = optimum(made.params, flops)
    samples = made.arrays()
    drawn_n, drawn_d = optimum(samples, flops)
    return {
        "n": estimate(n, drawn_n),
        "d": estimate(d, drawn_d),
        "tokens_per_parameter": estimate(d / n, drawn_d / drawn_n),
        "loss": estimate(loss(made.params, n, d), loss(samples, drawn_n, drawn_d)),
    }


def predict_target(made: Fit, target: Target) -> dict[str, Estimate]:
    """The loss at (n, d), or the optimum at flops."""
    if "flops" in target:
        return predict_optimum(made, target["flops"])
    return {"loss": predict(made, target["n"], target["d"])}


class _Frame:
    """The rows in centred variables: x = (log A', log B', log E, alpha, beta) with log A' = log A - alpha
    mean(log N), and the same for B."""

    def __init__(self, data: Observations) -> None:
        self.log_n, self.log_d, self.log_loss = np.log(data.n), np.log(data.d), np.log(data.loss)
        self.mean_n, self.mean_d = self.log_n.mean(), self.log_d.mean()

    def natural(self, x: Floats) -> Floats:
        """[rows, 5] centred variables -> [rows, 5] in the order of PARAMS."""
        log_a, log_b, log_e, alpha, beta = x.T
        with np.errstate(over="ignore"):
            a, b = np.exp(log_a + alpha * self.mean_n), np.exp(log_b + beta * self.mean_d)
        return np.stack([np.exp(log_e), a, b, alpha, beta], axis=1)

    def objective(self, x: Floats, delta: float, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """Sum of Huber losses in units of delta^2, and its gradient: [rows], [rows, 5]."""
        a, b, e, alpha, beta = (column[:, None] for column in x.T)
        n, d = self.log_n - self.mean_n, self.log_d - self.mean_d
        terms = np.stack([a - alpha * n, b - beta * d, np.broadcast_to(e, (len(x), n.size))])
        top = terms.max(0)
        parts = np.exp(terms - top)
        whole = parts.sum(0)
        residual = (top + np.log(whole) - self.log_loss) / delta
        inside = np.abs(residual) <= 1
        value = np.where(inside, 0.5 * residual**2, np.abs(residual) - 0.5)
        slope = np.clip(residual, -1, 1) / delta
        if weights is not None:
            value, slope = value * weights, slope * weights
        by_a, by_b, by_e = parts / whole * slope
        gradient = np.stack(
            [by_a.sum(1), by_b.sum(1), by_e.sum(1), -(by_a * n).sum(1), -(by_b * d).sum(1)], axis=1
        )
        return value.sum(1), gradient

    def starts(self, exponents: tuple[float, ...]) -> Floats:
        """For every pair of exponents, the non-negative A, B and E of least relative squares."""
        n, d = np.exp(-(self.log_n - self.mean_n)), np.exp(-(self.log_d - self.mean_d))
        inverse_loss = np.exp(-self.log_loss)
        rows = []
        for alpha in exponents:
            for beta in exponents:
                columns = np.stack([n**alpha, d**beta, np.ones_like(n)], axis=1) * inverse_loss[:, None]
                coefficients = _non_negative(columns)
                rows.append([*np.log(coefficients), alpha, beta])
        return np.array(rows)


def _non_negative(columns: Floats) -> Floats:
    """Least squares of columns @ c = 1 with c >= 0, kept above a small share so that logs exist."""
    from scipy.optimize import nnls

    found, _ = nnls(columns, np.ones(len(columns)))
    floor = 1e-2 / columns.max(axis=0)
    return np.asarray(np.maximum(found, floor))


def _search(frame: _Frame, options: Options) -> Minima:
    def objective(x: Floats, _: NDArray[np.int64]) -> tuple[Floats, Floats]:
        return _fenced(frame, x, options.delta, None)

    return minimize(objective, frame.starts(options.exponents))


def _bootstrap(frame: _Frame, best: Floats, options: Options) -> dict[str, Floats]:
    """Refits on resampled rows, as multinomial weights: name -> [replicates]."""
    if not options.replicates:
        return {}
    rows = len(frame.log_n)
    draw = np.random.Generator(np.random.PCG64(options.seed))
    weights = draw.multinomial(rows, np.full(rows, 1 / rows), size=options.replicates).astype(np.float64)

    def objective(x: Floats, which: NDArray[np.int64]) -> tuple[Floats, Floats]:
        return _fenced(frame, x, options.delta, weights[which])

    found = minimize(objective, np.tile(best, (options.replicates, 1)), max_iterations=300)
    natural = frame.natural(found.x)
    return {name: natural[:, place] for place, name in enumerate(PARAMS)}


def _fenced(frame: _Frame, x: Floats, delta: float, weights: Floats | None) -> tuple[Floats, Floats]:
    """The objective, infinite where the exponents leave (0, 4): a law falls, and not without bound."""
    value, gradient = frame.objective(x, delta, weights)
    outside = (x[:, 3:] <= 0).any(1) | (x[:, 3:] > 4).any(1)
    return np.where(outside, np.inf, value), gradient


def _flags(data: Observations, made: Fit) -> list[str]:
    flags = []
    log_n, log_d = np.log(data.n), np.log(data.d)
    if abs(np.corrcoef(log_n, log_d)[0, 1]) > 0.98:
        flags.append("collinear:n_d")
    for name, values in (("alpha", log_n), ("beta", log_d)):
        low, high = made.intervals.get(name, (0.0, 0.0))
        if len(np.unique(values)) < 3 or high - low > 1.5 or high > 3.9:
            flags.append(f"not_identified:{name}")
    if made.params["E"] < 0.02 * data.loss.min():
        flags.append("at_bound:E")
    if made.starts["agreeing"] < 2:
        flags.append("lonely_optimum")
    return flags


def _derived(made: Fit) -> dict[str, float]:
    alpha, beta = made.params["alpha"], made.params["beta"]
    total = alpha + beta
    return {
        "a": beta / total,
        "b": alpha / total,
        "G": (alpha * made.params["A"] / (beta * made.params["B"])) ** (1 / total),
        "rms_log_residual": float(np.sqrt(np.mean(np.square(made.residuals)))),
        "max_log_residual": float(np.max(np.abs(made.residuals))),
    }


def _sample_arrays(made: Fit) -> dict[str, Floats]:
    return {name: np.asarray(values) for name, values in made.samples.items()}


LAW = Law(
    name=NAME,
    formula="L(N, D) = E + A / N^alpha + B / D^beta",
    source="Hoffmann et al. 2022, section 3.3",
    options=Options,
    needs=("n", "d", "loss"),
    takes=("flops", "run"),
    fit=fit,
    predict=predict_target,
    targets=(("n", "d"), ("flops",)),
)
