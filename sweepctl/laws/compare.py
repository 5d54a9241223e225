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

from sweepctl.laws import holdout, linear, parametric
from sweepctl.laws.curve_forms import Design, Tissue, refine
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
    percentile_interval,
)  # fmt: skip

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
    floor: Literal["zero", "free"] = option("zero", "E of the compute law: none, or fitted")
    delta: float = option(1e-3, "Huber's delta on log residuals; without E it is least squares of logs")
    baseline: str | None = option(None, "the group that others are held against; none: the first")
    flops: float | None = option(None, "where; none: the largest FLOPs that every group reached")
    rows: Literal["least", "all"] = option(
        "least", "of a group's rows at about equal FLOPs the least loss, or all (compute)"
    )

    def __post_init__(self) -> None:
        Resampling.__post_init__(self)
        for name in ("delta", "flops"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise CannotFit(f"compare needs {name} to be a finite number above 0; it is {value:g}.")


@dataclass(frozen=True)
class Group:
    """One group's L(C) = E + a C^-b: the parameters that are shown, and replicates of E, a and b [replicates]
    beside more of its own; `low` and `high` bound its FLOPs; `flags` are without its name."""

    params: dict[str, float]
    samples: dict[str, Floats]
    low: float
    high: float
    objective: float
    starts: tuple[int, int]
    flags: tuple[str, ...] = ()


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
    if options.law == "compute" and options.rows == "least":
        data = _least(data)
    groups: dict[str, Group] = {}
    for i, (name, rows) in enumerate(data.groups("group").items()):
        try:
            groups[name] = _group(data.take(rows), dataclasses.replace(options, seed=options.seed + i))
        except CannotFit as error:
            raise CannotFit(f"Group {name}: {error}") from None
    how = "nothing" if not options.replicates else "resampled runs of each group"
    if "run" not in data.labels or options.law == "parametric":
        how = how.replace("runs", "rows")
    made = claim(
        NAME, data, options,
        {f"{name}.{key}": value for name, one in groups.items() for key, value in one.params.items()},
        sum(one.objective for one in groups.values()),
        {f"{name}.{key}": values for name, one in groups.items() for key, values in one.samples.items()},
        how,
        (sum(one.starts[0] for one in groups.values()), sum(one.starts[1] for one in groups.values())),
    )  # fmt: skip
    made.protocol["baseline"] = baseline
    made.details = _details(data, groups, baseline)
    made.flags = [_of(flag, name) for name, one in groups.items() for flag in one.flags]
    flops = options.flops or min(one.high for one in groups.values())
    _answer(made, flops)
    return made


def _of(flag: str, group: str) -> str:
    """A flag of one group: not_identified:E becomes not_identified:GROUP.E."""
    kind, colon, what = flag.partition(":")
    return f"{kind}:{group}.{what}" if colon else f"{kind}:{group}"


def _least(data: Observations) -> Observations:
    """Of the rows of a group at about equal FLOPs the one of least loss."""
    keep = np.zeros(len(data), dtype=bool)
    for rows in data.groups("group").values():
        level = holdout.levels(data.flops[rows])
        for one in range(int(level.max()) + 1):
            there = rows[level == one]
            keep[there[np.argmin(data.loss[there])]] = True
    return data.keep(keep, "a lower loss of its group at about the same FLOPs")


def _group(data: Observations, options: Options) -> Group:
    if options.law == "parametric":
        return _parametric(data, options)
    parameters = 3 if options.floor == "free" else 2
    levels = int(holdout.levels(data.flops).max()) + 1
    if levels < parameters + 1:
        raise CannotFit(
            f"L(C) has {parameters} parameters and needs losses at {parameters + 1} FLOPs at least; there "
            f"are {levels}."
        )
    weights = None
    if options.replicates:
        runs = data.labels.get("run", data.rows)
        numbers = np.unique(np.array(runs), return_inverse=True)[1]
        weights = linear.resample_groups(numbers, options.replicates, options.seed)
        weights = weights[[len(np.unique(data.flops[row > 0])) > parameters for row in weights]]
    solve = _free if options.floor == "free" else _zero
    values, drawn, objective, starts = solve(data, options, weights)
    params = dict(zip(("E", "a", "b"), values, strict=True))
    spread = np.sqrt(len(data) / (len(data) - parameters))
    samples = _widened(values, drawn, spread) if len(drawn) else {}
    if options.floor == "zero":
        del params["E"]
        samples.pop("E", None)
    flags = []
    if options.floor == "free":
        if params["E"] < 0.02 * data.loss.min():
            flags.append("at_bound:E")
        elif samples and np.ptp(percentile_interval(samples["E"])) > 0.5 * data.loss.min():
            flags.append("not_identified:E")
    return Group(params, samples, data.flops.min(), data.flops.max(), objective, starts, tuple(flags))


def _widened(values: Floats, drawn: Floats, spread: float) -> dict[str, Floats]:
    """Replicates [replicates, 3] moved away from the estimate by the degrees of freedom that the fit took;
    E stays above 0 and a and b move on a logarithmic scale."""
    log, one = np.log(np.maximum(drawn[:, 1:], 1e-300)), np.log(values[1:])
    moved = np.exp(one + spread * (log - one))
    floor = np.maximum(values[0] + spread * (drawn[:, 0] - values[0]), 0.0)
    return {"E": floor, "a": moved[:, 0], "b": moved[:, 1]}


Solution = tuple[Floats, Floats, float, tuple[int, int]]
"""E, a, b [3]; their replicates [replicates, 3]; the objective; starts tried and agreeing."""


def _zero(data: Observations, options: Options, weights: Floats | None) -> Solution:
    """L = a C^-b by least squares of logarithms."""
    factor, exponents = linear.power_law({"flops": data.flops}, data.loss)
    values = np.array([0.0, float(factor), -float(exponents["flops"])])
    residuals = np.log(values[1]) - values[2] * np.log(data.flops) - np.log(data.loss)
    drawn = np.empty((0, 3))
    if weights is not None:
        factors, slopes = linear.power_law({"flops": data.flops}, data.loss, weights)
        drawn = np.stack([np.zeros(len(factors)), factors, -slopes["flops"]], axis=1)
    if values[2] <= 0:
        raise CannotFit("its loss does not fall with FLOPs.")
    return values, drawn[drawn[:, 2] > 0] if len(drawn) else drawn, float(np.sum(residuals**2)), (1, 1)


def _free(data: Observations, options: Options, weights: Floats | None) -> Solution:
    """L = E + a C^-b by the sum of Huber losses of log residuals."""
    form = Tissue(float(np.exp(np.log(data.flops).mean())), 0.0, (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5))
    design = Design(data.flops, np.zeros(len(data)))
    log_loss = np.log(data.loss)
    x, f = refine(form, design, log_loss, form.starts(design, data.loss), options.delta)
    best = int(np.argmin(f))

    def natural(found: Floats) -> Floats:
        one = form.natural(found)
        return np.stack([one["L0"], one["A"], one["alpha"]], axis=1)

    drawn = np.empty((0, 3))
    if weights is not None and len(weights):
        start = np.repeat(x[best : best + 1], len(weights), axis=0)
        drawn = natural(refine(form, design, log_loss, start, options.delta, weights, 150, 1e-10)[0])
    agreeing = int(np.sum(f <= f[best] * (1 + 1e-6) + 1e-9))
    return natural(x[best : best + 1])[0], drawn, float(f[best] * options.delta**2), (len(f), agreeing)


def _parametric(data: Observations, options: Options) -> Group:
    """L(N, D) of the group; L(C) at the best N and D has b = alpha beta / (alpha + beta) (Hoffmann et al.
    2022, equation 4)."""
    chosen = parametric.Options(replicates=options.replicates, seed=options.seed, delta=options.delta)
    made = parametric.fit(data, chosen)

    def reduced(one: dict[str, Any]) -> dict[str, Any]:
        n, d = parametric.optimum(one, 1.0)
        alpha, beta = one["alpha"], one["beta"]
        return {"a": parametric.loss(one, n, d) - one["E"], "b": alpha * beta / (alpha + beta)}

    samples = made.arrays() if made.samples else {}
    flags = tuple(flag for flag in made.flags if not flag.startswith("repeated"))
    c = 6 * data.n * data.d
    starts = (made.starts["tried"], made.starts["agreeing"])
    params = {**made.params, **reduced(made.params)}
    samples = {**samples, **reduced(samples)} if samples else {}
    return Group(params, samples, float(c.min()), float(c.max()), made.objective, starts, flags)


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
    """Replicates of all groups, as many of each: one more than another where some had no fit."""
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
        low, high = made.intervals.get(f"{name}.loss_difference", (0.0, 0.0))
        if low <= 0 <= high:
            made.flags.append(f"not_resolved:{name}")


LAW = Law(
    name=NAME,
    formula="L(C) = E + a C^-b by group; differences at equal C, ratios of C at equal L",
    source="MiniMax-01 2025, scaling laws of its architectures",
    options=Options,
    needs=("group", "loss", "flops"),
    takes=("n", "d", "run"),
    fit=fit,
    predict=predict,
    targets=(("flops",),),
    held_out="none",
)
