"""Critical batch size: steps to a target loss against batch, and how the critical batch grows.

S(B) = S_min + E_min / B, fitted as log S = log(a + b / B) to the runs of one model and target loss
(McCandlish et al. 2018, arXiv 1812.06162, equation 2.11: (S / S_min - 1)(E / E_min - 1) = 1 with E = B S).
Two definitions of the critical batch are in use:

- B_crit = E_min / S_min = b / a, where steps and tokens are both twice their least (the same, section 2.3).
- B_overhead, where steps are 20 % more than linear scaling from a reference batch would give: with r the
  overhead and B_0 the reference, (1 + r) B_0 + r b / a (Zhang et al. 2024, arXiv 2410.21676, section 2).

Either may follow a power of the loss, B = B_star / L^(1 / alpha_B) (Kaplan et al. 2020, arXiv 2001.08361,
section 5.1), or of N and D (Zhang et al., section 3). The form `optimal` takes the best batch at each loss
as it stands and fits it alone (Hu et al. 2024, MiniCPM, arXiv 2404.06395, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sweepctl.laws.critical_batch.steps import StepsFits, fit_steps, log_steps_at
from sweepctl.laws.fit import Estimate, Fit, Target, claim, estimate
from sweepctl.laws.law import Law, Resampling, option
from sweepctl.laws.numerics.linear import collinear, power_law, r_squared, scatters
from sweepctl.laws.observations import CannotFit, Floats, Observations
from sweepctl.laws.shared.cells import Cell, cells_of, center

NAME = "critical-batch"
MIN_BATCHES = 3
COLLINEAR = 10.0
IN_LINE = 300.0
LEVEL_POWER = 1e-12
"""A power of the loss below which the batch is level."""
DEFINITIONS = ("B_crit", "B_overhead")
OVER: dict[str, tuple[str, ...]] = {
    "none": (),
    "loss": ("loss",),
    "n": ("n",),
    "d": ("d",),
    "n,d": ("n", "d"),
}


@dataclass(frozen=True, slots=True)
class Options(Resampling):
    """Every choice of the protocol."""

    form: Literal["steps", "optimal"] = option(
        "steps", "rows are steps to a loss at a batch, or the best batch at a loss"
    )
    over: Literal["none", "loss", "n", "d", "n,d"] = option(
        "none", "what the critical batch is a power law of (optimal: none means loss)"
    )
    overhead: float = option(0.2, "share of steps above linear scaling at B_overhead")
    reference: float = option(
        0.0, "the batch in tokens that linear scaling counts from; 0: the limit of small ones"
    )
    objective: Literal["squares", "huber"] = option("squares", "of the residuals of log steps")
    delta: float = option(0.05, "huber: where the loss turns from square to absolute")
    tolerance: float = option(0.01, "target losses, N and D within this share are equal")

    def __post_init__(self) -> None:
        Resampling.__post_init__(self)
        for name in ("overhead", "delta"):
            if getattr(self, name) <= 0:
                raise CannotFit(f"critical-batch needs {name} above 0; it is {getattr(self, name):g}.")
        if self.reference < 0 or not 0 <= self.tolerance < 1:
            raise CannotFit("critical-batch needs a reference of at least 0 and a tolerance from 0 to 1.")

    def second(self, ratio: Any) -> Any:
        """B_overhead of a B_crit."""
        return (1 + self.overhead) * self.reference + self.overhead * ratio


@dataclass(frozen=True)
class StepsCurve:
    """Steps against batch of one model and target loss."""

    cell: Cell
    """Its rows."""
    suffix: str
    """What the names of its parameters end in, where there are several."""
    whole: StepsFits
    """The fit."""
    copies: StepsFits
    """The fits of its replicates."""
    unknown: tuple[str, ...]
    """Parameters that its rows do not tell."""


def fit(data: Observations, options: Options) -> Fit:
    """Steps to a loss by batch a curve, with both definitions of the critical batch and, where `over` says
    so, their power laws; or, for the form `optimal`, the power law of the best batches.

    Raises:
        CannotFit: no curve has three batches, or the power law has fewer points than parameters.
    """
    if options.form == "optimal":
        return _fit_optimal(data, options)
    over = OVER[options.over]
    data.require("batch", "steps", *over)
    cells, data = _cells(data, over, options)
    curves = _curves(data, cells, options)
    params, samples = _of_curves(curves, options)
    derived: dict[str, float] = {}
    r2: dict[str, float] = {}
    flags = [f"not_identified:{name}" for curve in curves for name in curve.unknown]
    laws: dict[str, Any] = {}
    if over:
        derived = params
        params, drawn, r2, of_laws = _power_laws(data, curves, over, options)
        samples |= drawn
        flags += of_laws
        laws = {"used": [curve.cell.name for curve in curves if not curve.unknown]}
    return claim(
        NAME,
        data,
        options,
        params,
        sum(float(curve.whole.objective[0]) for curve in curves),
        samples,
        "noisy copies",
        derived={**derived, **r2, "curves": len(curves)},
        flags=flags,
        details={"curves": [_table(data, curve, options) for curve in curves], "over": list(over), **laws},
        residuals=np.concatenate([_left(data, curve) for curve in curves]).tolist(),
    )


def predict(fit: Fit, target: Target) -> dict[str, Estimate]:
    """At a loss, N or D: both critical batches, or the best batch, in tokens. At a batch: the steps of every
    curve.

    Raises:
        CannotFit: the fit holds no law over what the target names.
    """
    over, params = fit.details["over"], fit.params
    many: dict[str, Any] = {**params, **fit.arrays()}
    if over and set(target) == set(over):
        names = ("batch",) if fit.protocol["form"] == "optimal" else DEFINITIONS
        return {name: estimate(_at(params, name, target), _at(many, name, target)) for name in names}
    if set(target) == {"batch"} and fit.details.get("curves"):
        values = {**fit.derived, **params}
        many = {**values, **many}
        estimates = {}
        for curve in fit.details["curves"]:
            low, tokens = (f"{name}{curve['suffix']}" for name in ("S_min", "E_min"))
            if low in values and tokens in values:
                estimates[f"steps{curve['suffix']}"] = estimate(
                    values[low] + values[tokens] / target["batch"], many[low] + many[tokens] / target["batch"]
                )
        return estimates
    raise CannotFit(f"This fit has no law over {','.join(target)}: set the option over, or ask at batch=...")


def _at(params: Mapping[str, Any], name: str, target: Mapping[str, Any]) -> Any:
    """A critical batch by its power law; parameters and the target's values broadcast."""
    if set(target) == {"loss"}:
        star, alpha = _kaplan_names(name)
        return params[star] * np.exp(-np.log(target["loss"]) / params[alpha])
    batch = params[f"{name}_factor"]
    for role, value in target.items():
        batch = batch * value ** params[f"{name}_{role}"]
    return batch


def _kaplan_names(name: str) -> tuple[str, str]:
    suffix = "_overhead" if name == "B_overhead" else ""
    return f"B_star{suffix}", f"alpha_B{suffix}"


def _cells(data: Observations, over: tuple[str, ...], options: Options) -> tuple[list[Cell], Observations]:
    """Rows of one model and target loss, where there are three batches."""
    roles = tuple(r for r in ("loss", "n", "d") if r in data and (r in over or r == "loss"))
    if "group" not in data and "n" in data and "n" not in roles:
        roles = (*roles, "n")
    cells = cells_of(data, roles, options.tolerance)
    good = np.zeros(len(data), dtype=bool)
    for cell in cells:
        good[cell.rows] = len(np.unique(data["batch"][cell.rows])) >= MIN_BATCHES
    if not good.any():
        most = max(len(np.unique(data["batch"][cell.rows])) for cell in cells) if cells else 0
        raise CannotFit(
            f"Steps to one target loss at {MIN_BATCHES} batches are needed; the fullest of {len(cells)} "
            f"curves has {most}."
        )
    kept = data.keep(good, f"its curve has fewer than {MIN_BATCHES} batches")
    return cells_of(kept, roles, options.tolerance), kept


def _curves(data: Observations, cells: list[Cell], options: Options) -> list[StepsCurve]:
    """The fit of every curve, and of copies with the scatter that all curves together show."""
    delta = options.delta if options.objective == "huber" else None
    logs = [(np.log(data["batch"][cell.rows]), np.log(data["steps"][cell.rows])) for cell in cells]
    fits = [fit_steps(batch, steps[None], delta) for batch, steps in logs]
    fitted = [
        log_steps_at(batch, steps_fit.level, steps_fit.ratio)[0]
        for (batch, _), steps_fit in zip(logs, fits, strict=True)
    ]
    left = np.concatenate([steps - line for (_, steps), line in zip(logs, fitted, strict=True)])
    freedom = len(left) - 2 * len(cells)
    draw = np.random.Generator(np.random.PCG64(options.seed))
    curves = []
    spread = scatters(float(np.sum(left**2)), freedom, options.replicates, draw)
    for cell, (batch, _), steps_fit, line in zip(cells, logs, fits, fitted, strict=True):
        noise = draw.standard_normal((options.replicates, len(line))) * spread[:, None]
        copies = fit_steps(batch, line + noise, delta)
        suffix = f":{cell.name}" if len(cells) > 1 else ""
        unknown = tuple(f"{name}{suffix}" for name in _unknown(steps_fit, copies))
        curves.append(StepsCurve(cell, suffix, steps_fit, copies, unknown))
    return curves


def _unknown(whole: StepsFits, copies: StepsFits) -> tuple[str, ...]:
    """What a curve does not say: S_min where steps fall as 1 / B to the last, E_min where they stay."""
    bounds = [int(whole.bound[0])]
    bounds += [side for side in (-1, 1) if copies.bound.size and np.mean(copies.bound == side) > 0.025]
    ends = [("E_min", -1), ("S_min", 1)]
    lost = [name for name, side in ends if side in bounds]
    return (*lost, *DEFINITIONS) if lost else ()


def _of_curves(curves: list[StepsCurve], options: Options) -> tuple[dict[str, float], dict[str, Floats]]:
    """S_min (steps), E_min (tokens) and both critical batches (tokens) of every curve."""
    params: dict[str, Floats] = {}
    samples: dict[str, Floats] = {}
    for curve in curves:
        for fits, into in ((curve.whole, params), (curve.copies, samples)):
            ratio = np.exp(fits.ratio)
            values = (np.exp(fits.level), np.exp(fits.level + fits.ratio), ratio, options.second(ratio))
            for name, value in zip(("S_min", "E_min", *DEFINITIONS), values, strict=True):
                into[f"{name}{curve.suffix}"] = value
    values_by_name = {name: float(value[0]) for name, value in params.items()}
    return values_by_name, samples if options.replicates else {}


def _left(data: Observations, curve: StepsCurve) -> Floats:
    batch, steps = data["batch"][curve.cell.rows], data["steps"][curve.cell.rows]
    return np.asarray(np.log(steps) - log_steps_at(np.log(batch), curve.whole.level, curve.whole.ratio)[0])


def _power_laws(
    data: Observations, curves: list[StepsCurve], over: tuple[str, ...], options: Options
) -> tuple[dict[str, float], dict[str, Floats], dict[str, float], list[str]]:
    """Both critical batches over loss, N or D, through the curves that say them."""
    good = [curve for curve in curves if not curve.unknown]
    predictors = {role: np.array([center(data[role][c.cell.rows]) for c in good]) for role in over}
    params: dict[str, float] = {}
    samples: dict[str, Floats] = {}
    derived: dict[str, float] = {}
    flags: list[str] = []
    for name in DEFINITIONS:
        change = options.second if name == "B_overhead" else float
        values = np.array([change(float(np.exp(c.whole.ratio[0]))) for c in good])
        copies = np.stack([np.exp(c.copies.ratio) for c in good], axis=1) if good else np.empty((0, 0))
        copies = options.second(copies) if name == "B_overhead" else copies
        of_definition, drawn, of_law = _power(predictors, values, copies, name, options)
        flags += [flag for flag in of_law if flag not in flags]
        params |= of_definition
        samples |= drawn
        explained = r_squared(np.log(_at(of_definition, name, predictors)), np.log(values))
        derived |= {f"{name}_r2": explained} if np.isfinite(explained) else {}
    return params, samples, derived, flags


def _power(
    predictors: dict[str, Floats], values: Floats, copies: Floats | None, name: str, options: Options
) -> tuple[dict[str, float], dict[str, Floats], list[str]]:
    """A power law through values [points]: parameters, their samples, flags.

    Copies scatter around the line as the points do (Student's t). Where the line goes through every point,
    the points' own `copies` [replicates, points] are refitted instead.
    """
    size = len(predictors) + 1
    over = ", ".join(predictors)
    points = set(zip(*(column.tolist() for column in predictors.values()), strict=True))
    if len(points) < size:
        raise CannotFit(
            f"A power law over {over} needs a critical batch at {size} different values; there are "
            f"{len(points)}."
        )
    factor, powers = power_law(predictors, values)
    fitted = factor * np.prod([column ** powers[role] for role, column in predictors.items()], axis=0)
    left = np.log(values) - np.log(fitted)
    freedom = len(values) - size
    draw = np.random.Generator(np.random.PCG64(options.seed + 1))
    flags = _shape(predictors, name)
    logs = np.stack([np.log(column) for column in predictors.values()], axis=1)
    if any(flag.startswith("collinear") for flag in flags) and collinear(logs, IN_LINE):
        raise CannotFit(
            f"{' and '.join(predictors)} rise together over the {len(values)} points, which cannot tell "
            "their powers apart: fit over one of them."
        )
    if freedom > 0:
        spread = scatters(float(np.sum(left**2)), freedom, options.replicates, draw)
        noise = spread[:, None] * draw.standard_normal((options.replicates, len(values)))
        copies = fitted * np.exp(noise)
    else:
        flags.append("few_points")
    design = np.stack([np.ones(len(values)), *(np.log(column) for column in predictors.values())], axis=1)
    middle = design[:, 1:].mean(axis=0)
    design[:, 1:] -= middle
    solved = np.empty((size, 0)) if copies is None else np.linalg.pinv(design) @ np.log(copies).T
    drawn = {role: solved[place + 1] for place, role in enumerate(predictors)}
    level = np.exp(solved[0] - middle @ solved[1:])
    return *_named(name, factor, powers, level, drawn), flags


def _named(
    name: str, factor: Any, powers: Mapping[str, Any], level: Floats, drawn: dict[str, Floats]
) -> tuple[dict[str, float], dict[str, Floats]]:
    """Kaplan's names over loss; else a factor and an exponent a predictor."""
    if set(powers) == {"loss"}:
        star, alpha = _kaplan_names(name)
        params = {star: float(factor), alpha: float(_inverse(powers["loss"]))}
        return params, {star: level, alpha: _inverse(drawn["loss"])}
    params = {f"{name}_factor": float(factor), **{f"{name}_{r}": float(p) for r, p in powers.items()}}
    return params, {f"{name}_factor": level, **{f"{name}_{r}": p for r, p in drawn.items()}}


def _inverse(power: Any) -> Any:
    """alpha_B of a power of the loss; of a batch that does not follow it, whatever sign rounding gave, a
    large one."""
    return -1 / np.where(np.abs(power) < LEVEL_POWER, -LEVEL_POWER, power)


def _shape(predictors: dict[str, Floats], name: str) -> list[str]:
    """Flags of a law's predictors that do not vary, or vary together."""
    columns = {role: np.log(values) for role, values in predictors.items()}
    still = [role for role, values in columns.items() if np.ptp(values) < 1e-6]
    flags = [f"not_identified:{name}_{role}" for role in still]
    if len(columns) > 1 and not still and collinear(np.stack(list(columns.values()), axis=1), COLLINEAR):
        flags.append("collinear:" + "_".join(columns))
        flags += [f"not_identified:{name}_{role}" for role in columns]
    return flags


def _fit_optimal(data: Observations, options: Options) -> Fit:
    over = OVER[options.over] or ("loss",)
    predictors, values = {role: data[role] for role in over}, data["batch"]
    params, samples, flags = _power(predictors, values, None, "batch", options)
    fitted = _at(params, "batch", predictors)
    explained = r_squared(np.log(fitted), np.log(values))
    left = np.log(values) - np.log(fitted)
    if "loss" in over and options.replicates and len(samples["alpha_B"]):
        low, high = np.percentile(1 / samples["alpha_B"], [2.5, 97.5])
        flags += ["not_identified:alpha_B"] if low <= 0 <= high else []
    return claim(
        NAME,
        data,
        options,
        params,
        float(np.sum(left**2)),
        {name: drawn for name, drawn in samples.items() if len(drawn)},
        "noisy copies",
        derived={"r2": explained} if np.isfinite(explained) else {},
        flags=flags,
        details={
            "over": list(over),
            "points": {"batch": values.tolist(), **{r: v.tolist() for r, v in predictors.items()}},
        },
        residuals=left.tolist(),
    )


def _table(data: Observations, curve: StepsCurve, options: Options) -> dict[str, Any]:
    rows = curve.cell.rows
    ratio = float(np.exp(curve.whole.ratio[0]))
    return {
        "curve": curve.cell.name,
        "suffix": curve.suffix,
        "batch": data["batch"][rows].tolist(),
        "steps": data["steps"][rows].tolist(),
        "S_min": float(np.exp(curve.whole.level[0])),
        "E_min": float(np.exp(curve.whole.level[0])) * ratio,
        "B_crit": ratio,
        "B_overhead": float(options.second(ratio)),
        "not_identified": list(curve.unknown),
        **{role: center(data[role][rows]) for role in ("loss", "n", "d") if role in data},
    }


LAW = Law(
    name=NAME,
    formula="S(B) = S_min + E_min / B, B_crit = E_min / S_min; as B_star / L^(1/alpha_B), or powers of N, D",
    source="McCandlish et al. 2018, section 2; Kaplan et al. 2020, section 5.1; Zhang et al. 2024, section 2",
    options=Options,
    needs=("batch",),
    takes=("steps", "loss", "n", "d", "group"),
    fit=fit,
    predict=predict,
    targets=(("batch",), ("loss",), ("n",), ("d",), ("n", "d")),
    annealed=False,
    reduced=False,
    held_out="none",
)
