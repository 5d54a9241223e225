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
from sweepctl.laws.law import (
    CannotFit,
    Estimate,
    Fit,
    Floats,
    Law,
    Observations,
    Resampling,
    Target,
    claim,
    estimate,
    option,
)  # fmt: skip
from sweepctl.laws.numerics.rounding import above_rounding

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
class Group:
    """One group's fit, with E, a and b of its L(C) = E + a C^-b among `params` and `samples` (name ->
    [replicates]); `low` and `high` bound its FLOPs."""

    made: Fit
    params: dict[str, float]
    samples: dict[str, Floats]
    low: float
    high: float


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
    groups: dict[str, Group] = {}
    for i, (name, rows) in enumerate(data.groups("group").items()):
        part = dataclasses.replace(data.take(rows), excluded=())
        try:
            groups[name] = _group(part, dataclasses.replace(options, seed=options.seed + i))
        except CannotFit as error:
            raise CannotFit(f"Group {name}: {error}") from None
    fits = [one.made for one in groups.values()]
    how = "copies of each group's law" if options.law == "compute" and options.intervals == "copies" else None
    made = claim(
        NAME, data, options,
        {f"{name}.{key}": value for name, one in groups.items() for key, value in one.params.items()},
        sum(one.objective for one in fits),
        {f"{name}.{key}": values for name, one in groups.items() for key, values in one.samples.items()},
        how or "resampled rows of each group",
        (sum(one.starts["tried"] for one in fits), sum(one.starts["agreeing"] for one in fits)),
    )  # fmt: skip
    made.rows_used = [row for one in fits for row in one.rows_used]
    made.rows_excluded += [row for one in fits for row in one.rows_excluded]
    made.protocol["baseline"] = baseline
    made.details = _details(data, groups, baseline)
    made.flags = [_of(flag, name) for name, one in groups.items() for flag in one.made.flags]
    flops = options.flops or min(one.high for one in groups.values())
    _answer(made, flops)
    return made


def _of(flag: str, group: str) -> str:
    """A flag of one group: not_identified:E becomes not_identified:GROUP.E."""
    kind, colon, what = flag.partition(":")
    return f"{kind}:{group}.{what}" if colon else f"{kind}:{group}"


def _group(data: Observations, options: Options) -> Group:
    if options.law == "parametric":
        return _parametric(data, options)
    chosen = compute.Options(
        replicates=options.replicates, seed=options.seed, floor=options.floor, objective=options.objective,
        delta=options.delta, rows=options.rows, tolerance=options.tolerance, intervals=options.intervals,
    )  # fmt: skip
    made = compute.fit(data, chosen)
    samples = made.arrays() if made.samples else {}
    shown = [name for name in made.params if name != "E" or options.floor != 0]
    params = {name: made.params[name] for name in shown}
    samples = {name: values for name, values in samples.items() if name in shown}
    return Group(made, params, samples, data.flops.min(), data.flops.max())


def _parametric(data: Observations, options: Options) -> Group:
    """L(N, D) of the group; L(C) at the best N and D has b = alpha beta / (alpha + beta) (Hoffmann et al.
    2022, equation 4)."""
    chosen = parametric.Options(replicates=options.replicates, seed=options.seed, delta=options.delta)
    made = parametric.fit(data, chosen)

    def reduced(one: dict[str, Any]) -> dict[str, Any]:
        n, d = parametric.optimum(one, 1.0)
        alpha, beta = one["alpha"], one["beta"]
        return {**one, "a": parametric.loss(one, n, d) - one["E"], "b": alpha * beta / (alpha + beta)}

    samples = reduced(made.arrays()) if made.samples else {}
    c = 6 * data.n * data.d
    return Group(made, reduced(made.params), samples, float(c.min()), float(c.max()))


def _details(data: Observations, groups: dict[str, Group], baseline: str) -> dict[str, Any]:
    by = data.groups("group")
    flops = data.columns.get("flops")
    c = flops if flops is not None else 6 * data.n * data.d
    return {
        "baseline": baseline,
        "groups": {
            name: {
                "low": float(one.low), "high": float(one.high),
                "flops": c[by[name]].tolist(), "loss": data.loss[by[name]].tolist(),
            }
            for name, one in groups.items()
        },
    }  # fmt: skip


def quantities(values: dict[str, Any], names: list[str], baseline: str, flops: float) -> dict[str, Any]:
    """By name, from E, a and b of every group: GROUP.loss at `flops`; against the baseline
    GROUP.loss_difference there, and GROUP.compute_ratio, the FLOPs that the baseline needs to reach that
    loss over `flops` (NEVER where its E is above)."""
    level = {name: tuple(values.get(f"{name}.{key}", 0.0) for key in ("E", "a", "b")) for name in names}
    loss = {name: e + a * flops**-b for name, (e, a, b) in level.items()}
    found = {f"{name}.loss": one for name, one in loss.items()}
    e, a, b = level[baseline]
    for name in names:
        if name != baseline:
            found[f"{name}.loss_difference"] = loss[name] - loss[baseline]
            above = np.asarray(loss[name] - e)
            with np.errstate(over="ignore", divide="ignore"):
                needed = (np.where(above > 0, above, 1.0) / a) ** (-1 / b)
            found[f"{name}.compute_ratio"] = np.where(above > 0, np.minimum(needed / flops, NEVER), NEVER)[()]
    return found


def predict(made: Fit, target: Target) -> dict[str, Estimate]:
    """Every group's loss at target["flops"] FLOPs, its difference from the baseline's and the ratio of
    compute at equal loss."""
    names, baseline = list(made.details["groups"]), made.details["baseline"]
    values = quantities(made.params, names, baseline, target["flops"])
    drawn = quantities(_together(made), names, baseline, target["flops"])
    return {name: estimate(value, drawn[name]) for name, value in values.items()}


def _together(made: Fit) -> dict[str, Floats]:
    """Replicates of all groups, as many of each as of the group with fewest."""
    drawn = made.arrays()
    count = min(len(values) for values in drawn.values())
    return {name: values[:count] for name, values in drawn.items()}


def _answer(made: Fit, flops: float) -> None:
    """Put the comparison at `flops` on the fit, and say where it is not measured or not resolved."""
    answers = predict(made, {"flops": flops})
    made.predictions.append(
        {"at": {"flops": flops}, **{name: one.value for name, one in answers.items()},
         "intervals": {name: list(one.interval) for name, one in answers.items()} if made.samples else {}}
    )  # fmt: skip
    groups, baseline = made.details["groups"], made.details["baseline"]
    known = groups[baseline]
    made.derived["flops"] = flops
    for name, one in groups.items():
        if not one["low"] * 0.9 <= flops <= one["high"] * 1.1:
            made.flags.append(f"extrapolated:{name}")
        if name == baseline:
            continue
        for key in (f"{name}.loss_difference", f"{name}.compute_ratio"):
            made.derived[key] = answers[key].value
            if made.samples:
                made.intervals[key] = answers[key].interval
        if answers[f"{name}.compute_ratio"].value >= NEVER:
            made.flags.append(f"never_reached:{name}")
        needed = answers[f"{name}.compute_ratio"].value * flops
        measured = known["low"] / NEAR <= needed <= known["high"] * NEAR
        if not measured and f"extrapolated:{name}" not in made.flags:
            made.flags.append(f"ratio_extrapolated:{name}")
        low, high = made.intervals.get(f"{name}.loss_difference", (1.0, 1.0))
        loss = answers[f"{baseline}.loss"].value
        if not above_rounding(low, loss) and not above_rounding(-high, loss):
            made.flags.append(f"not_resolved:{name}")


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
