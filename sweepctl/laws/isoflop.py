"""Method 2: at each FLOP budget a parabola of loss over log N; its vertices give N*(C) and D*(C) as power
laws (Hoffmann et al. 2022, arXiv 2203.15556, section 3.2).

A budget whose parabola opens downwards, or whose vertex lies outside the sizes that were trained, has no
minimum that was measured: it is left out and flagged. Intervals come from noisy copies of the losses
(Porian et al. 2024, arXiv 2406.19146, appendix): every copy is fitted anew, budgets without a minimum in at
least half of the copies are dropped, and budgets weigh by the inverse variance of their log N*.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from sweepctl.laws import parametric
from sweepctl.laws.law import (
    CannotFit,
    Estimate,
    Fit,
    Floats,
    Law,
    Observations,
    Resampling,
    Target,
    estimate,
    option,
    percentile_interval,
)  # fmt: skip

NAME = "isoflop"
MIN_POINTS = 3


@dataclass(frozen=True, slots=True)
class Options(Resampling):
    """Every choice of the protocol."""

    tolerance: float = option(0.1, "budgets within this share of each other in FLOPs are one")
    loss: Literal["raw", "log"] = option("raw", "what the parabola is fitted to")
    noise: float | None = option(
        None, "s.d. of log loss between equal runs; none: the scatter around the parametric law"
    )

    def __post_init__(self) -> None:
        Resampling.__post_init__(self)
        if not 0 < self.tolerance < 1:
            raise CannotFit(f"isoflop needs a tolerance between 0 and 1; it is {self.tolerance:g}.")
        if self.noise is not None and self.noise < 0:
            raise CannotFit(f"isoflop needs a noise of at least 0, or none; it is {self.noise:g}.")


@dataclass(frozen=True)
class Budget:
    """The runs of one FLOP budget: `flops` their geometric mean, the rest [points]."""

    flops: float
    log_n: Floats
    log_d: Floats
    loss: Floats
    rows: tuple[str, ...]


def fit(data: Observations, options: Options) -> Fit:
    """N*(C), D*(C) and L*(C) with 95 % intervals from noisy copies.

    Raises:
        CannotFit: fewer than two budgets have a minimum.
    """
    groups, excluded = budgets(data, options)
    noise, source = _noise(data, options)
    flags: list[str] = []
    kept, spreads = [], []
    copies = _noisy_copies(groups, noise, options)
    for group, drawn in zip(groups, copies, strict=True):
        log_n, _, problem = vertex(group, group.loss[None], options.loss)
        inside = np.isfinite(drawn)
        if problem[0]:
            flags.append(f"{problem[0]}_minimum:{group.flops:.3g}")
            excluded += [(row, f"its budget's minimum is {problem[0]}") for row in group.rows]
        elif options.replicates and inside.mean() < 0.5:
            flags.append(f"noisy_minimum:{group.flops:.3g}")
            excluded += [(row, "its budget has no minimum in half of its noisy copies") for row in group.rows]
        else:
            kept.append((group, float(log_n[0]), drawn))
            spreads.append(float(np.std(drawn[inside])) if options.replicates else 1.0)
    if len(kept) < 2:
        raise CannotFit(
            f"isoFLOP needs minima at two budgets at least; {len(groups)} have {MIN_POINTS} sizes or more, "
            f"{len(kept)} of them a minimum inside the sizes trained."
        )
    return _assemble(data, options, kept, np.array(spreads), excluded, flags, noise, source)


def budgets(data: Observations, options: Options) -> tuple[list[Budget], list[tuple[str, str]]]:
    """Rows grouped by FLOPs within the tolerance, in rising order, and the rows of too small groups."""
    order = np.argsort(data.flops)
    groups: list[list[int]] = []
    for i in order:
        if groups and data.flops[i] <= data.flops[groups[-1][0]] * (1 + options.tolerance):
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    found, excluded = [], list(data.excluded)
    for group in groups:
        sizes = len(np.unique(data.n[group]))
        if sizes < MIN_POINTS:
            reason = f"its budget was trained at {sizes} of the {MIN_POINTS} sizes a parabola needs"
            excluded += [(data.rows[i], reason) for i in group]
            continue
        found.append(
            Budget(
                float(np.exp(np.log(data.flops[group]).mean())),
                np.log(data.n[group]),
                np.log(data.d[group]),
                data.loss[group],
                tuple(data.rows[i] for i in group),
            )
        )
    return found, excluded


def vertex(group: Budget, losses: Floats, scale: str) -> tuple[Floats, Floats, list[str]]:
    """The minimum of the parabola through each row of `losses` [copies, points].

    Returns log N* [copies], the loss there [copies], and for each copy what is wrong with its minimum:
    'concave', 'edge' or nothing. log N* is NaN where something is.
    """
    center = group.log_n.mean()
    x = group.log_n - center
    design = np.stack([x**2, x, np.ones_like(x)], axis=1)
    target = np.log(losses) if scale == "log" else losses
    coefficients = np.linalg.lstsq(design, target.T, rcond=None)[0]
    bend, tilt, level = coefficients
    with np.errstate(divide="ignore", invalid="ignore"):
        at = -tilt / (2 * bend)
        bottom = level - tilt**2 / (4 * bend)
    problems = [
        "concave" if b <= 0 else "edge" if not x.min() <= a <= x.max() else ""
        for a, b in zip(at, bend, strict=True)
    ]
    bad = np.array([bool(problem) for problem in problems])
    log_n = np.where(bad, np.nan, at + center)
    return log_n, np.exp(bottom) if scale == "log" else bottom, problems


def predict(made: Fit, target: Target) -> dict[str, Estimate]:
    """N*, D*, tokens a parameter and the least loss at C FLOPs, by the power laws through the minima."""
    c, one, drawn = target["flops"], made.params, made.arrays()
    n, d = one["k_n"] * c ** one["a"], one["k_d"] * c ** one["b"]
    drawn_n, drawn_d = drawn["k_n"] * c ** drawn["a"], drawn["k_d"] * c ** drawn["b"]
    return {
        "n": estimate(n, drawn_n),
        "d": estimate(d, drawn_d),
        "tokens_per_parameter": estimate(d / n, drawn_d / drawn_n),
        "loss": estimate(one["k_l"] * c ** one["c"], drawn["k_l"] * c ** drawn["c"]),
    }


def _noise(data: Observations, options: Options) -> tuple[float, str]:
    if options.noise is not None:
        return options.noise, "as given"
    try:
        made = parametric.fit(data, parametric.Options(replicates=0))
    except CannotFit:
        return 0.005, "assumed: too few rows for the parametric law's residuals"
    freedom = max(1, len(made.residuals) - len(made.params))
    return float(np.sqrt(np.sum(np.square(made.residuals)) / freedom)), "residuals of the parametric law"


def _noisy_copies(groups: list[Budget], noise: float, options: Options) -> list[Floats]:
    """log N* of every copy of every group, NaN where the copy has no minimum: [groups][copies]."""
    draw = np.random.Generator(np.random.PCG64(options.seed))
    copies = []
    for group in groups:
        shape = (options.replicates, len(group.loss))
        noisy = group.loss * np.exp(noise * draw.standard_normal(shape))
        copies.append(vertex(group, noisy, options.loss)[0] if options.replicates else np.empty(0))
    return copies


def _assemble(
    data: Observations, options: Options, kept: list[tuple[Budget, float, Floats]], spreads: Floats,
    excluded: list[tuple[str, str]], flags: list[str], noise: float, source: str,
) -> Fit:  # fmt: skip
    log_c = np.log([group.flops for group, _, _ in kept])
    weights = 1 / np.maximum(spreads, 1e-9)
    minima = [vertex(group, group.loss[None], options.loss) for group, _, _ in kept]
    log_n = np.array([found for _, found, _ in kept])
    log_d = np.array([_log_d(group, found) for group, found, _ in kept])
    log_l = np.log([float(bottom[0]) for _, bottom, _ in minima])
    params = _powers(log_c, log_n, log_d, log_l, weights)
    samples: dict[str, list[float]] = {}
    if options.replicates:
        samples = _sample(log_c, kept, log_l, weights, noise, options)
    intervals = {name: percentile_interval(np.asarray(values)) for name, values in samples.items()}
    return Fit(
        law=NAME,
        protocol={**asdict(options), "noise": noise, "noise_from": source,
                  "intervals": "95 % percentiles over noisy copies"},
        accounting=dict(data.accounting),
        params=params,
        intervals=intervals,
        objective=float(np.sum((weights * (log_n - np.log(params["k_n"]) - params["a"] * log_c)) ** 2)),
        rows_used=[row for group, _, _ in kept for row in group.rows],
        rows_excluded=[{"row": row, "reason": reason} for row, reason in excluded],
        starts={"tried": 1, "agreeing": 1},
        flags=flags + (["two_budgets"] if len(kept) == 2 else []),
        derived={"budgets": len(kept)},
        details={
            "minima": [
                {"flops": group.flops, "n": float(np.exp(n)), "d": float(np.exp(d)),
                 "loss": float(np.exp(bottom)), "points": len(group.rows)}
                for (group, n, _), d, bottom in zip(kept, log_d, log_l, strict=True)
            ]
        },
        samples=samples,
    )  # fmt: skip


def _log_d(group: Budget, log_n: Any) -> Any:
    """log D at a size of this budget: the runs' own D, interpolated over log N (linear where C = 6 N D)."""
    order = np.argsort(group.log_n)
    return np.interp(log_n, group.log_n[order], group.log_d[order])


def _powers(log_c: Floats, log_n: Floats, log_d: Floats, log_l: Floats, weights: Floats) -> dict[str, float]:
    found: dict[str, float] = {}
    for exponent, factor, values in (("a", "k_n", log_n), ("b", "k_d", log_d), ("c", "k_l", log_l)):
        slope, level = np.polyfit(log_c, values, 1, w=weights)
        found |= {exponent: float(slope), factor: float(np.exp(level))}
    return found


def _sample(
    log_c: Floats, kept: list[tuple[Budget, float, Floats]], log_l: Floats, weights: Floats, noise: float,
    options: Options,
) -> dict[str, list[float]]:  # fmt: skip
    """The power laws of every noisy copy. A copy in which a budget has no minimum goes without it."""
    draw = np.random.Generator(np.random.PCG64(options.seed + 1))
    found: dict[str, list[float]] = {name: [] for name in ("a", "k_n", "b", "k_d", "c", "k_l")}
    for copy in range(options.replicates):
        log_n = np.array([drawn[copy] for _, _, drawn in kept])
        there = np.isfinite(log_n)
        if there.sum() < 2:
            continue
        log_d = np.array([_log_d(group, n) for (group, _, _), n in zip(kept, log_n, strict=True)])
        level = log_l + noise * draw.standard_normal(len(log_l)) / np.sqrt(MIN_POINTS)
        powers = _powers(log_c[there], log_n[there], log_d[there], level[there], weights[there])
        for name, value in powers.items():
            found[name].append(value)
    return found


LAW = Law(
    name=NAME,
    formula="N*(C) = k_n C^a, D*(C) = k_d C^b, L*(C) = k_l C^c",
    source="Hoffmann et al. 2022, section 3.2",
    options=Options,
    needs=("n", "d", "flops", "loss"),
    fit=fit,
    predict=predict,
    targets=(("flops",),),
    held_out="best",
)
