"""Loss of over-trained models, and the error on tasks that follows from it (Gadre et al. 2024, arXiv
2403.08540): L(C, M) = E + (a M^eta + b M^-eta) C^-eta with M = D / N tokens a parameter (equation 4), and
error = epsilon - k exp(-gamma L) (equation 5).

Both are fitted by least squares, unweighted and without bounds, as the authors' released code does; there it
is started from 128 points, here the one parameter that is not linear (eta, gamma) is searched and the others
solved for, which finds the least itself. The second step is fitted to measured losses.

At C FLOPs the loss is least at M = (b / a)^(1 / (2 eta)), the same at every C.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from sweepctl.laws.fit import Estimate, Fit, Target, claim, estimate, misfit, scattered
from sweepctl.laws.law import Law, Resampling, option
from sweepctl.laws.numerics import linear, profile
from sweepctl.laws.numerics.rounding import above_rounding
from sweepctl.laws.observations import CannotFit, Floats, Observations
from sweepctl.laws.shared import two_steps
from sweepctl.laws.shared.new_run import Measured

NAME = "overtraining"
MIN_ROWS = 5
ETA = (0.01, 1.0)
GAMMA = (0.01, 20.0)
POINTS = 60


@dataclass(frozen=True, slots=True)
class Options(Resampling):
    """Every choice of the protocol."""

    scale: Literal["loss", "relative"] = option("loss", "squares of L, or of relative residuals")
    bounds: Literal["none", "nonnegative"] = option("none", "nonnegative: E, a, b >= 0")
    compute: Literal["six_n", "column"] = option(
        "six_n", "C = 6 N D, or the column flops (elsewhere C = its median share of N D)"
    )
    eta: tuple[float, ...] = option(ETA, "where eta is searched")
    gamma: tuple[float, ...] = option(GAMMA, "where gamma is searched")
    resample: Literal["auto", "noise", "rows", "runs"] = option(
        "auto", "noisy copies, drawn rows, or drawn runs; auto: runs where one has several rows, else copies"
    )
    noise: float | None = option(None, "s.d. of log loss between equal runs; none: the scatter of these")

    def __post_init__(self) -> None:
        Resampling.__post_init__(self)
        for name in ("eta", "gamma"):
            ends = getattr(self, name)
            if len(ends) != 2 or not 0 < ends[0] < ends[1] < np.inf:
                raise CannotFit(f"overtraining needs two rising numbers above 0 as {name}; it has {ends}.")
        if self.noise is not None and not 0 <= self.noise < np.inf:
            raise CannotFit(f"overtraining needs a noise of at least 0, or none; it is {self.noise:g}.")


@dataclass(frozen=True)
class StepFit:
    """One of the two fits."""

    params: dict[str, float]
    """At the optimum."""
    samples: dict[str, Floats]
    """Of every replicate."""
    fitted: Floats
    """Values of the law [rows]."""
    squares: float
    """Sum of squares at the optimum."""
    scatter: float
    """Of the rows around it, of losses as a share."""
    scatters: Floats
    """Draws of it."""
    minima: int
    """Of the profile."""
    lost: frozenset[str]
    """Linear parameters that the rows do not tell apart."""


def fit(data: Observations, options: Options) -> Fit:
    """L(C, M), and the error where the table has it, with 95 % intervals.

    Raises:
        CannotFit: fewer than five runs to fit, fewer than four (N, D), losses or errors all equal.
    """
    roles = two_steps.roles(data)
    rows = data.take(np.flatnonzero(roles[two_steps.FIT]))
    _refuse(rows, "error" in data)
    used = data.keep(~roles[two_steps.TARGET], "its role is target: it is only predicted")
    weights = _weights(used, options)
    fitted = roles[two_steps.FIT][~roles[two_steps.TARGET]]
    factor = float(np.median(data.flops / (data.n * data.d))) if options.compute == "column" else 6.0
    flops = rows.flops if options.compute == "column" else 6 * rows.n * rows.d
    first = _fit_loss(rows, flops, options, None if weights is None else weights[:, fitted])
    second = _fit_error(used, options, weights) if "error" in used else None
    fit = _assemble(used, options, rows, flops, factor, first, second)
    fit.flags = _flags(fit, rows, options, first, second)
    chain_ = _check(fit, data.take(np.flatnonzero(roles[two_steps.TARGET])))
    fit.details["targets"] = [row.record() for row in chain_]
    fit.derived |= two_steps.mean_errors(chain_)
    return fit


def loss(params: Any, c: Any, m: Any) -> Any:
    """L(C, M), nats a token: C FLOPs, M tokens a parameter (equation 4); arguments broadcast."""
    eta = params["eta"]
    return params["E"] + (params["a"] * m**eta + params["b"] * m**-eta) * c**-eta


def error(params: Any, value: Any) -> Any:
    """Error on the task, 0 to 1, at a loss in nats (equation 5); arguments broadcast."""
    return params["epsilon"] - params["k"] * np.exp(-params["gamma"] * value)


def predict(fit: Fit, target: Target) -> dict[str, Estimate]:
    """Loss and error of a run at (N, D), or at C FLOPs with one of N, D and M; at C alone, of the best M.

    The interval of the error is the chain's: both steps' parameters and the scatter around the second; that
    of a new run adds the scatter around the first. NaN where the runs, all at one M, say nothing of this one.
    """
    c, m = _place(fit, target)
    params, drawn = fit.params, fit.arrays()
    estimates: dict[str, Estimate] = {}
    drawn_m: Any = m
    if m is None:
        m, drawn_m = _best(params), _best(drawn)
        factor = fit.derived["flops_per_nd"]
        estimates["tokens_per_parameter"] = estimate(m, drawn_m)
        estimates["n"] = estimate(np.sqrt(c / factor / m), np.sqrt(c / factor / drawn_m))
        estimates["d"] = estimate(np.sqrt(c / factor * m), np.sqrt(c / factor * drawn_m))
    with np.errstate(all="ignore"):
        value, draws = loss(params, c, m), loss(drawn, c, drawn_m)
        if not _holds_at(fit, m):
            value, draws = np.nan, np.full(draws.shape, np.nan)
        draw = np.random.Generator(np.random.PCG64(fit.protocol["seed"] + 2))
        runs = draws * np.exp(drawn.get("noise", 0.0) * draw.standard_normal(draws.shape))
        of_loss = scattered(value, draws, runs)
        run = (
            _measured(fit).prediction((c, m), of_loss.interval, fit.backtests) if np.isfinite(value) else None
        )
        estimates["loss"] = run or of_loss
        if "gamma" in params:
            scatter = drawn.get("noise_error", 0.0) * draw.standard_normal(draws.shape)
            chained = error(drawn, draws) + scatter
            estimates["error"] = scattered(error(params, value), chained, error(drawn, runs) + scatter)
    return estimates


def _measured(fit: Fit) -> Measured:
    """L(C, M) and the rows that it was fitted to."""
    points = fit.details["points"]
    params = {name: fit.params[name] for name in ("E", "a", "b", "eta")}
    return Measured(
        loss, params, (points["flops"], points["m"]), points["loss"], fit.details.get("trunks", ())
    )


def _refuse(rows: Observations, errors: bool) -> None:
    if len(rows) < MIN_ROWS:
        raise CannotFit(
            f"The law of over-training has four parameters and needs {MIN_ROWS} runs; there are {len(rows)}."
        )
    places = len(set(zip(rows.n, rows.d, strict=True)))
    if places < 4:
        raise CannotFit(f"The law of over-training needs runs at four different (N, D); there are {places}.")
    if np.ptp(rows.loss) < 1e-9 * rows.loss.mean():
        raise CannotFit(f"The {len(rows)} losses are all {rows.loss[0]:g}: there is no law to fit.")
    if errors and np.ptp(rows["error"]) < 1e-9:
        raise CannotFit(f"The errors are all {rows['error'][0]:g}: leave them out to fit the loss alone.")


def _how(used: Observations, options: Options) -> str:
    """What replicates are: rows of one run are not independent."""
    if options.resample != "auto":
        return options.resample
    return "runs" if "run" in used and len(used.groups("run")) < len(used) else "noise"


def _weights(used: Observations, options: Options) -> Floats | None:
    """How often each row counts in each replicate [replicates, rows]; none where copies are noisy instead."""
    how = _how(used, options)
    if how == "noise":
        return None
    if how == "rows":
        return linear.resample(len(used), options.replicates, options.seed)
    return linear.resample_groups(used.numbers("run"), options.replicates, options.seed)


def _fit_loss(rows: Observations, flops: Floats, options: Options, weights: Floats | None) -> StepFit:
    log_c, log_m = np.log(flops), np.log(rows.d / rows.n)

    def columns(eta: Floats) -> Floats:
        up, down = (np.exp(eta[:, None] * (sign * log_m - log_c)) for sign in (1, -1))
        return np.stack([np.ones_like(up), up, down])

    unit = float(np.exp(np.log(rows.loss).mean()))
    target = rows.loss / unit
    scale = target if options.scale == "relative" else np.ones(len(rows))
    least = np.zeros(3) if options.bounds == "nonnegative" else None
    names = ("E", "a", "b", "eta")
    step = _fit_step(columns, target, scale, options.eta, least, names, options, weights, True)
    return _rescaled(step, unit, options)


def _rescaled(step: StepFit, unit: float, options: Options) -> StepFit:
    """Step 1 of losses over a unit as one of the losses themselves."""
    factor = {"E": unit, "a": unit, "b": unit}
    squares = step.squares * unit * unit if options.scale == "loss" else step.squares
    return replace(
        step,
        params={name: value * factor.get(name, 1.0) for name, value in step.params.items()},
        samples={name: values * factor.get(name, 1.0) for name, values in step.samples.items()},
        fitted=step.fitted * unit,
        squares=squares,
    )


def _fit_error(used: Observations, options: Options, weights: Floats | None) -> StepFit:
    measured = used.loss

    def columns(gamma: Floats) -> Floats:
        falling = -np.exp(-gamma[:, None] * measured)
        return np.stack([np.ones_like(falling), falling])

    names = ("epsilon", "k", "gamma")
    scale = np.ones(len(used))
    return _fit_step(columns, used["error"], scale, options.gamma, None, names, options, weights, False)


def _fit_step(
    columns: profile.Columns, target: Floats, scale: Floats, ends: tuple[float, ...], least: Floats | None,
    names: tuple[str, ...], options: Options, weights: Floats | None, relative: bool,
) -> StepFit:  # fmt: skip
    """Target [rows] on the columns by least squares of residuals over `scale`, and its replicates. The noise
    of copies is relative to the fitted values where `relative`: losses scatter by a share of themselves."""
    grid = np.geomspace(ends[0], ends[1], POINTS)
    precision = scale[None] ** -2.0
    best = profile.search(columns, target[None], precision, grid, least, iterations=70)
    design = columns(best.theta)[:, 0].T
    fitted = design @ best.coefficients[0]
    params = dict(zip(names, [*best.coefficients[0].tolist(), float(best.theta[0])], strict=True))
    seed = options.seed + 7 * len(names)
    gone = profile.null_columns(design / scale[:, None])
    lost = frozenset(name for name, is_lost in zip(names, gone, strict=False) if is_lost)
    freedom = len(target) - len(names) + bool(lost)
    size = np.abs(fitted) if relative else np.ones(len(target))
    off = (target - fitted) / size
    sigma, sigmas = two_steps.spread(float(off @ off), freedom, options.replicates, seed)
    if relative and options.noise is not None:
        sigma, sigmas = options.noise, np.full(options.replicates, options.noise)
    samples: dict[str, Floats] = {}
    if options.replicates:
        copies, precision = (
            np.tile(target, (options.replicates, 1)),
            np.tile(precision, (options.replicates, 1)),
        )
        if weights is None:
            draw = np.random.Generator(np.random.PCG64(seed + 1))
            copies = fitted + size * sigmas[:, None] * draw.standard_normal(copies.shape)
        else:
            precision = precision * weights
        again = profile.search(columns, copies, precision, grid, least, iterations=25)
        short = (precision > 0).sum(axis=1) < len(names)
        parts = [*again.coefficients.T, again.theta]
        samples = {name: np.where(short, np.nan, part) for name, part in zip(names, parts, strict=True)}
    return StepFit(params, samples, fitted, float(best.squares[0]), sigma, sigmas, best.minima, lost)


def _assemble(
    used: Observations, options: Options, rows: Observations, flops: Floats, factor: float, first: StepFit,
    second: StepFit | None,
) -> Fit:  # fmt: skip
    samples = dict(first.samples)
    derived = {"flops_per_nd": factor, "noise": first.scatter, "minima": first.minima}
    if samples:
        samples["noise"] = first.scatters
    params = dict(first.params)
    details: dict[str, Any] = {
        "points": {"flops": flops.tolist(), "m": (rows.d / rows.n).tolist(), "loss": rows.loss.tolist()},
        "trunks": list(rows.shared_trunks()),
    }
    if second is not None:
        params |= second.params
        samples |= second.samples
        derived |= {"noise_error": second.scatter, "squares_error": second.squares}
        details["errors"] = {"loss": used.loss.tolist(), "error": used["error"].tolist()}
        if second.samples:
            samples["noise_error"] = second.scatters
    residuals = np.log(np.maximum(first.fitted, 1e-300) / rows.loss)
    derived |= misfit(residuals)
    if np.isfinite(_best(params)):
        derived["m_best"] = float(_best(params))
        if samples:
            samples["m_best"] = _best(samples)
    resampled = {"noise": "noisy copies of the losses", "rows": "resampled rows", "runs": "resampled runs"}
    return claim(
        NAME, used, options, params, first.squares, samples, resampled[_how(used, options)],
        derived=derived, details=details, residuals=residuals.tolist(),
    )  # fmt: skip


def _best(params: Any) -> Any:
    """The tokens a parameter of least loss at any C; NaN where a or b is not above 0."""
    a, b, eta = (np.asarray(params[name]) for name in ("a", "b", "eta"))
    with np.errstate(all="ignore"):
        ratio = np.where(above_rounding(a, b) & above_rounding(b, a), b / a, np.nan)
        return ratio ** (1 / (2 * eta))


def _holds_at(fit: Fit, m: Any) -> Any:
    """Whether the law says anything at M: runs at one M tell nothing of others."""
    if not {"not_identified:a", "not_identified:b"} <= set(fit.flags) or "not_identified:E" in fit.flags:
        return True
    fitted = fit.details["points"]["m"]
    return bool(min(fitted) / 1.01 <= m <= max(fitted) * 1.01)


def _place(fit: Fit, target: Target) -> tuple[float, float | None]:
    """(C, M) of a target; no M where only C is given."""
    factor = fit.derived["flops_per_nd"]
    if "flops" not in target:
        n = target["n"]
        d = target["d"] if "d" in target else n * target["tokens_per_parameter"]
        return factor * n * d, d / n
    c = target["flops"]
    if "tokens_per_parameter" in target:
        return c, target["tokens_per_parameter"]
    if "n" in target:
        return c, c / factor / target["n"] ** 2
    return c, target["d"] ** 2 * factor / c if "d" in target else None


def _flags(
    fit: Fit, rows: Observations, options: Options, first: StepFit, second: StepFit | None
) -> list[str]:
    names = set(first.lost | (second.lost if second is not None else frozenset()))
    if _at_end(fit.params["eta"], options.eta):
        names |= {"eta", "E", "a", "b"}
    if second is not None and (second.lost or _at_end(fit.params["gamma"], options.gamma)):
        names |= {"gamma", "k", "epsilon"}
    if "m_best" in fit.derived and names & {"a", "b"}:
        names.add("m_best")
    names |= {name for name in ("a", "b") if _spans_zero(fit, name) and options.bounds != "nonnegative"}
    every = ("E", "a", "b", "eta", "epsilon", "k", "gamma", "m_best")
    flags = [f"not_identified:{name}" for name in every if name in names]
    if options.bounds == "nonnegative":
        flags += [f"at_bound:{name}" for name in ("E", "a", "b") if fit.params[name] <= 0]
    if len(rows) == MIN_ROWS:
        flags.append("one_degree_of_freedom")
    return flags


def _spans_zero(fit: Fit, name: str) -> bool:
    low, high = fit.intervals.get(name, (1.0, 1.0))
    return low < 0 < high


def _at_end(value: float, ends: tuple[float, ...]) -> bool:
    return bool(value <= ends[0] * 1.01 or value >= ends[1] / 1.01)


def _check(fit: Fit, targets: Observations) -> list[two_steps.Checked]:
    """Loss, error at the measured loss, and error by the chain, of every target row."""
    rows: list[two_steps.Checked] = []
    for i, row in enumerate(targets.rows):
        n, d, measured = float(targets.n[i]), float(targets.d[i]), float(targets.loss[i])
        c = float(targets.flops[i]) if fit.protocol["compute"] == "column" else 6 * n * d
        value = float(loss(fit.params, c, d / n)) if _holds_at(fit, d / n) else float("nan")
        rows.append(two_steps.Checked(row, n, d, "loss", value, measured))
        if "gamma" in fit.params:
            actual = float(targets["error"][i])
            at_true, chained = error(fit.params, measured), error(fit.params, value)
            rows.append(two_steps.Checked(row, n, d, "error at the true loss", float(at_true), actual))
            rows.append(two_steps.Checked(row, n, d, "chained error", float(chained), actual))
    return rows


LAW = Law(
    name=NAME,
    formula="L = E + (a M^eta + b M^-eta) C^-eta, error = epsilon - k exp(-gamma L), M = D / N",
    source="Gadre et al. 2024, section 3",
    options=Options,
    needs=("n", "d", "loss"),
    takes=("flops", "error", "run", "trunk", "role"),
    fit=fit,
    predict=predict,
    targets=(
        ("n", "d"), ("n", "tokens_per_parameter"), ("flops", "tokens_per_parameter"), ("flops", "d"),
        ("flops", "n"), ("flops",),
    ),
)  # fmt: skip
