"""The same law of compute fitted to several architectures or recipes, and compared (as MiniMax-01, arXiv
2501.08313, compares softmax, linear and hybrid attention by L(C) = a C^-b).

Each group has L(C) = E + a C^-b: fitted to its losses over FLOPs, or from its own L(N, D) at the best N and D
under C = 6 N D, where b = alpha beta / (alpha + beta). Against the baseline: the difference in loss at equal
FLOPs, and at equal loss how many times a group's FLOPs the baseline needs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sweepctl.laws import compute, parametric
from sweepctl.laws.fit import NO_INTERVAL, Answer, Estimate, Fit, Target, claim, estimate
from sweepctl.laws.law import Law, Resampling, option
from sweepctl.laws.numerics.rounding import above_rounding
from sweepctl.laws.observations import CannotFit, Floats, Observations

NAME = "compare"
NEVER = 1e12
"""A ratio of compute that stands for a loss that the baseline does not reach."""
NEAR = 1.5
"""How far beyond its range the baseline may have to go for an equal loss without a flag."""


@dataclass(frozen=True, slots=True)
class Options(Resampling):
    """Every choice of the protocol."""

    law: Literal["compute", "parametric"] = option(
        "compute", "L(C) of the losses, or the least of L(N, D) at C = 6 N D"
    )
    floor: float | None = option(0.0, "E of the compute law in nats; 0 is a pure power law; none: fitted")
    objective: Literal["squares", "huber"] = option("squares", "of log residuals (compute)")
    delta: float = option(1e-3, "where a Huber loss turns from square to absolute")
    baseline: str | None = option(None, "the group that others are held against; none: the first")
    flops: float | None = option(None, "where; none: the largest FLOPs that every group reached")
    rows: Literal["all", "best"] = option(
        "best", "rows of a group: all, or the least loss of each budget (compute)"
    )
    tolerance: float = option(0.1, "with rows=best, share in FLOPs within which rows are of a budget")
    intervals: Literal["copies", "rows"] = option(
        "copies", "replicates: copies of the law with its scatter, or rows drawn with replacement (compute)"
    )

    def __post_init__(self) -> None:
        Resampling.__post_init__(self)
        for name in ("delta", "flops"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise CannotFit(f"compare needs {name} to be a finite number above 0; it is {value:g}.")


@dataclass(frozen=True)
class GroupFit:
    """One group's fit."""

    fit: Fit
    """Of the law that is compared."""
    params: dict[str, float]
    """E, a and b of its L(C) = E + a C^-b."""
    samples: dict[str, Floats]
    """The same of every replicate."""
    low: float
    """FLOPs of its smallest run."""
    high: float
    """FLOPs of its largest."""


def fit(data: Observations, options: Options) -> Fit:
    """Every group's law, and differences and ratios against the baseline, with 95 % intervals.

    Raises:
        CannotFit: fewer than two groups, or one that does not carry the law.
    """
    names = list(data.groups("group"))
    if len(names) < 2:
        raise CannotFit(f"compare needs two groups at least; there is {len(names)}.")
    baseline = options.baseline if options.baseline is not None else names[0]
    if baseline not in names:
        raise CannotFit(f"The baseline {baseline!r} is none of the groups {', '.join(names)}.")
    groups: dict[str, GroupFit] = {}
    for i, (name, rows) in enumerate(data.groups("group").items()):
        part = dataclasses.replace(data.take(rows), excluded=())
        try:
            groups[name] = _group(part, dataclasses.replace(options, seed=options.seed + i))
        except CannotFit as error:
            raise CannotFit(f"Group {name}: {error}") from None
    fits = [group.fit for group in groups.values()]
    how = "copies of each group's law" if options.law == "compute" and options.intervals == "copies" else None
    fit = claim(
        NAME, data, options,
        {f"{name}.{key}": value for name, group in groups.items() for key, value in group.params.items()},
        sum(group.objective for group in fits),
        {f"{name}.{key}": values for name, group in groups.items() for key, values in group.samples.items()},
        how or "resampled rows of each group",
        (sum(group.starts.tried for group in fits), sum(group.starts.agreeing for group in fits)),
    )  # fmt: skip
    fit.rows_used = [row for group in fits for row in group.rows_used]
    fit.rows_excluded += [row for group in fits for row in group.rows_excluded]
    fit.protocol["baseline"] = baseline
    fit.details = _details(data, groups, baseline)
    fit.flags = [_of(flag, name) for name, group in groups.items() for flag in group.fit.flags]
    flops = options.flops or min(group.high for group in groups.values())
    _answer(fit, flops)
    return fit


def _of(flag: str, group: str) -> str:
    """A flag of one group: not_identified:E becomes not_identified:GROUP.E."""
    kind, colon, what = flag.partition(":")
    return f"{kind}:{group}.{what}" if colon else f"{kind}:{group}"


def _group(data: Observations, options: Options) -> GroupFit:
    if options.law == "parametric":
        return _parametric(data, options)
    chosen = compute.Options(
        replicates=options.replicates, seed=options.seed, floor=options.floor, objective=options.objective,
        delta=options.delta, rows=options.rows, tolerance=options.tolerance, intervals=options.intervals,
    )  # fmt: skip
    fit = compute.fit(data, chosen)
    samples = fit.arrays() if fit.samples else {}
    shown = [name for name in fit.params if name != "E" or options.floor != 0]
    params = {name: fit.params[name] for name in shown}
    samples = {name: values for name, values in samples.items() if name in shown}
    return GroupFit(fit, params, samples, data.flops.min(), data.flops.max())


def _parametric(data: Observations, options: Options) -> GroupFit:
    """L(N, D) of the group; L(C) at the best N and D has b = alpha beta / (alpha + beta) (Hoffmann et al.
    2022, equation 4)."""
    chosen = parametric.Options(replicates=options.replicates, seed=options.seed, delta=options.delta)
    fit = parametric.fit(data, chosen)

    def reduced(params: dict[str, Any]) -> dict[str, Any]:
        n, d = parametric.optimum(params, 1.0)
        alpha, beta = params["alpha"], params["beta"]
        return {
            **params,
            "a": parametric.loss(params, n, d) - params["E"],
            "b": alpha * beta / (alpha + beta),
        }

    samples = reduced(fit.arrays()) if fit.samples else {}
    c = 6 * data.n * data.d
    return GroupFit(fit, reduced(fit.params), samples, float(c.min()), float(c.max()))


def _details(data: Observations, groups: dict[str, GroupFit], baseline: str) -> dict[str, Any]:
    by = data.groups("group")
    flops = data.columns.get("flops")
    c = flops if flops is not None else 6 * data.n * data.d
    return {
        "baseline": baseline,
        "groups": {
            name: {
                "low": float(group.low), "high": float(group.high),
                "flops": c[by[name]].tolist(), "loss": data.loss[by[name]].tolist(),
            }
            for name, group in groups.items()
        },
    }  # fmt: skip


def quantities(values: dict[str, Any], names: list[str], baseline: str, flops: float) -> dict[str, Any]:
    """By name, from E, a and b of every group: GROUP.loss at `flops`; against the baseline
    GROUP.loss_difference there, and GROUP.compute_ratio, the FLOPs that the baseline needs to reach that
    loss over `flops` (NEVER where its E is above)."""
    level = {name: tuple(values.get(f"{name}.{key}", 0.0) for key in ("E", "a", "b")) for name in names}
    loss = {name: e + a * flops**-b for name, (e, a, b) in level.items()}
    values_at = {f"{name}.loss": level_at for name, level_at in loss.items()}
    e, a, b = level[baseline]
    for name in names:
        if name != baseline:
            values_at[f"{name}.loss_difference"] = loss[name] - loss[baseline]
            above = np.asarray(loss[name] - e)
            with np.errstate(over="ignore", divide="ignore"):
                needed = (np.where(above > 0, above, 1.0) / a) ** (-1 / b)
            values_at[f"{name}.compute_ratio"] = np.where(
                above > 0, np.minimum(needed / flops, NEVER), NEVER
            )[()]
    return values_at


def predict(fit: Fit, target: Target) -> dict[str, Estimate]:
    """Every group's loss at target["flops"] FLOPs, its difference from the baseline's and the ratio of
    compute at equal loss."""
    names, baseline = list(fit.details["groups"]), fit.details["baseline"]
    values = quantities(fit.params, names, baseline, target["flops"])
    drawn = quantities(_together(fit), names, baseline, target["flops"])
    return {name: estimate(value, drawn[name]) for name, value in values.items()}


def _together(fit: Fit) -> dict[str, Floats]:
    """Replicates of all groups, as many of each as of the group with fewest."""
    drawn = fit.arrays()
    count = min(len(values) for values in drawn.values())
    return {name: values[:count] for name, values in drawn.items()}


def _answer(fit: Fit, flops: float) -> None:
    """Put the comparison at `flops` on the fit, and say where it is not measured or not resolved."""
    at = Target({"flops": flops})
    answers = predict(fit, at)
    shown = answers if fit.samples else {name: Estimate(a.value, NO_INTERVAL) for name, a in answers.items()}
    fit.predictions.append(Answer(at, shown))
    groups, baseline = fit.details["groups"], fit.details["baseline"]
    reference = groups[baseline]
    fit.derived["flops"] = flops
    for name, group in groups.items():
        if not group["low"] * 0.9 <= flops <= group["high"] * 1.1:
            fit.flags.append(f"extrapolated:{name}")
        if name == baseline:
            continue
        for key in (f"{name}.loss_difference", f"{name}.compute_ratio"):
            fit.derived[key] = answers[key].value
            if fit.samples:
                fit.intervals[key] = answers[key].interval
        if answers[f"{name}.compute_ratio"].value >= NEVER:
            fit.flags.append(f"never_reached:{name}")
        needed = answers[f"{name}.compute_ratio"].value * flops
        measured = reference["low"] / NEAR <= needed <= reference["high"] * NEAR
        if not measured and f"extrapolated:{name}" not in fit.flags:
            fit.flags.append(f"ratio_extrapolated:{name}")
        low, high = fit.intervals.get(f"{name}.loss_difference", (1.0, 1.0))
        loss = answers[f"{baseline}.loss"].value
        if not above_rounding(low, loss) and not above_rounding(-high, loss):
            fit.flags.append(f"not_resolved:{name}")


LAW = Law(
    name=NAME,
    formula="L(C) = E + a C^-b by group; differences at equal C, ratios of C at equal L",
    source="MiniMax-01 2025, scaling laws of its architectures",
    options=Options,
    needs=("group", "loss", "flops"),
    takes=("n", "d"),
    fit=fit,
    predict=predict,
    targets=(("flops",),),
    held_out="none",
)
