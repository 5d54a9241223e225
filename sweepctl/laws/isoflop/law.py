"""Method 2: at each FLOP budget the minimum of loss over size; power laws through the minima give N*(C),
D*(C) and L*(C) (Hoffmann et al. 2022, arXiv 2203.15556, section 3.2).

The curve through a budget is a parabola in log N, or in log D (Llama Team 2024, arXiv 2407.21783, section
3.2.1), or in the log of M, FLOPs a token (DeepSeek-AI 2024, arXiv 2401.02954, section 3.2), or an Akima
spline of log L (Porian et al. 2024, arXiv 2406.19146, appendix). With N the active parameters and C counted
accordingly it is that of Hunyuan-Large (Sun et al. 2024, arXiv 2411.02265, section 2.2).

A budget whose parabola opens downwards, or whose minimum lies outside the sizes that were trained, has no
minimum that was measured: it is left out and flagged, as is one without a minimum in half of its replicates.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sweepctl.laws import compute, parametric
from sweepctl.laws.fit import UNKNOWN, Estimate, Fit, Target, claim, short
from sweepctl.laws.isoflop.budgets import MIN_POINTS, BudgetRuns, Vertices, budgets, drawn_curve, vertices
from sweepctl.laws.isoflop.options import Options
from sweepctl.laws.law import Law
from sweepctl.laws.numerics.rounding import above_rounding
from sweepctl.laws.observations import CannotFit, Excluded, Floats, Observations
from sweepctl.laws.shared import compute_optimal

NAME = "isoflop"
FLOOR = 4
"""Budgets that a floor of L*(C) needs."""

JUDGES = 200
"""Replicates that judge a budget where none were asked for."""


@dataclass(frozen=True)
class Minimum:
    """The minimum of a budget, in natural logarithms."""

    budget: BudgetRuns
    """Its runs."""
    logs: dict[str, float]
    """n, d, m or loss -> value."""
    drawn: dict[str, Floats]
    """The same of its replicates, NaN where one has no minimum."""
    spread: float
    """Standard deviation of where it is."""


def fit(data: Observations, options: Options) -> Fit:
    """N*(C), D*(C) and L*(C) with 95 % intervals from replicates of every budget.

    Raises:
        CannotFit: fewer than two budgets have a minimum.
    """
    groups, excluded = budgets(data, options)
    noise, source = _noise(data, options) if options.intervals == "copies" else (0.0, "not used")
    draw = np.random.Generator(np.random.PCG64(options.seed))
    kept: list[Minimum] = []
    flags: list[str] = []
    shown: list[dict[str, Any]] = []
    for group in groups:
        whole = vertices(group, group.loss[None], options)
        minimum, problem = _minimum(group, whole, options, noise, draw)
        if problem:
            flags.append(f"{problem}_minimum:{short(group.flops)}")
        if minimum is None:
            reason = {"concave": "is concave", "edge": "lies outside the sizes trained"}.get(
                problem, "is absent in half of its replicates"
            )
            excluded += [Excluded(row, f"the minimum of its budget {reason}") for row in group.rows]
        else:
            kept.append(minimum)
        shown.append(_shown(group, whole, options, problem, minimum is not None))
    if len(kept) < 2:
        raise CannotFit(
            f"isoFLOP needs minima at two budgets at least; {len(groups)} have {MIN_POINTS} sizes or more, "
            f"{len(kept)} of them a minimum inside the sizes trained."
        )
    law = _assemble(data, options, kept, excluded)
    law.protocol |= {"noise": noise, "noise_from": source}
    law.details["budgets"] = shown
    law.flags = flags + (["two_budgets"] if len(kept) == 2 else [])
    if options.floor is None:
        low, _ = law.intervals.get("E", (law.params.get("E", 0.0), 0.0))
        law.flags += ["not_identified:E"] if not above_rounding(low, data.loss.min()) else []
    return law


def predict(fit: Fit, target: Target) -> dict[str, Estimate]:
    """What the power laws say at target["flops"]; no loss beyond the budgets where they were too few for the
    floor of L*(C)."""
    estimates = compute_optimal.predict(fit, target, fit.details["minima"])
    trained = [minimum["flops"] for minimum in fit.details["minima"]]
    inside = 0.5 * min(trained) <= target["flops"] <= 2 * max(trained)
    if fit.protocol["floor"] is None and "E" not in fit.params and not inside:
        estimates["loss"] = UNKNOWN
    return estimates


def _minimum(
    group: BudgetRuns, whole: Vertices, options: Options, noise: float, draw: np.random.Generator
) -> tuple[Minimum | None, str]:
    """A budget's minimum, or nothing; and what is wrong with it: concave, edge or noisy."""
    copies = options.replicates or JUDGES
    if options.intervals == "copies":
        noisy = group.loss * np.exp(noise * draw.standard_normal((copies, len(group.loss))))
        copies_lowest = vertices(group, noisy, options)
    else:
        points = len(group.loss)
        weights = draw.multinomial(points, np.full(points, 1 / points), size=copies).astype(np.float64)
        copies_lowest = vertices(group, group.loss[None], options, weights)
    problem = str(whole.problem[0])
    if problem == "concave" or (problem == "edge" and options.edges == "drop"):
        return None, problem
    lost = (copies_lowest.problem == "concave") | (
        (copies_lowest.problem == "edge") & (options.edges == "drop")
    )
    if np.mean(copies_lowest.problem == "") < 0.5 and options.edges == "drop":
        return None, "noisy"
    at = np.where(lost, np.nan, copies_lowest.at)
    low = np.where(lost | (copies_lowest.loss <= 0), np.nan, copies_lowest.loss)
    drawn = {**group.split(at, options.over), "loss": np.log(low)}
    logs = {**group.split(whole.at[0], options.over), "loss": float(np.log(whole.loss[0]))}
    if options.optimum == "median":
        logs = {role: np.nanmedian(values) for role, values in drawn.items()}
    # As in Porian et al., replicates without a minimum count against a budget.
    spread = float(np.nanstd(at) / max(1e-9, np.mean(~lost)))
    return Minimum(group, {k: float(v) for k, v in logs.items()}, drawn, spread), problem


def _noise(data: Observations, options: Options) -> tuple[float, str]:
    if options.noise is not None:
        return options.noise, "as given"
    try:
        fit = parametric.fit(data, parametric.Options(replicates=0))
    except CannotFit:
        return 0.005, "assumed: the rows do not carry the parametric law"
    freedom = max(1, len(fit.residuals) - len(fit.params))
    return float(np.sqrt(np.sum(np.square(fit.residuals)) / freedom)), "residuals of the parametric law"


def _shown(group: BudgetRuns, whole: Vertices, options: Options, problem: str, used: bool) -> dict[str, Any]:
    """What a picture shows of a budget: its points, and the curve through them."""
    grid, loss = drawn_curve(group, whole.parabola, options)
    return {
        "flops": group.flops, "used": used, "problem": problem, "x": np.exp(group.x).tolist(),
        "n": np.exp(group.log_n).tolist(), "d": np.exp(group.log_d).tolist(), "loss": group.loss.tolist(),
        "rows": list(group.rows), "curve": {"x": np.exp(grid).tolist(), "loss": loss.tolist()},
        "parabola": None if whole.parabola is None else asdict(whole.parabola),
    }  # fmt: skip


def _assemble(data: Observations, options: Options, kept: list[Minimum], excluded: list[Excluded]) -> Fit:
    roles = ("n", "d", "loss", *(("m",) if options.over == "m" else ()))
    log_c = np.log([minimum.budget.flops for minimum in kept])
    spreads = np.array([minimum.spread for minimum in kept])
    weights = np.ones(len(kept))
    if options.weights == "spread":
        weights = 1 / np.maximum(spreads, max(1e-9, 1e-3 * spreads.max())) ** 2
    logs = {role: np.array([minimum.logs[role] for minimum in kept]) for role in roles}
    drawn = {role: np.stack([minimum.drawn[role] for minimum in kept], axis=1) for role in roles}
    params = {name: float(value) for name, value in compute_optimal.powers(log_c, logs, weights).items()}
    samples = compute_optimal.powers(log_c, drawn, weights) if options.replicates else {}
    if options.floor != 0 and len(kept) >= FLOOR:
        minimum, many = _floored(log_c, logs["loss"], drawn["loss"] if samples else None, options)
        params, samples = params | minimum, samples | many
    samples = compute_optimal.whole(samples)
    off = logs["n"] - np.log(params["k_n"]) - params["a"] * log_c
    rows = [row for minimum in kept for row in minimum.budget.rows]
    minima = [
        {
            "flops": minimum.budget.flops, **{role: float(np.exp(minimum.logs[role])) for role in roles},
            "points": len(minimum.budget.rows), "spread": minimum.spread,
        }
        for minimum in kept
    ]  # fmt: skip
    fit = claim(
        NAME, data, options, params, float(np.sum(weights * off**2)), samples,
        "noisy copies" if options.intervals == "copies" else "rows of each budget",
        derived={"budgets": len(kept)}, details={"minima": minima},
    )  # fmt: skip
    fit.rows_used = rows
    fit.rows_excluded = excluded
    return fit


def _floored(
    log_c: Floats, log_l: Floats, drawn: Floats | None, options: Options
) -> tuple[dict[str, float], dict[str, Floats]]:
    """L* = E + k_l C^c through the minima, and through those of each replicate [replicates, budgets]."""
    how = compute.Options(floor=options.floor)
    if options.floor is not None and options.floor >= np.exp(log_l.min()):
        raise CannotFit(f"The floor {options.floor:g} is not below the least loss of the budgets.")

    def named(params: dict[str, Floats]) -> dict[str, Floats]:
        return {"E": params["E"], "k_l": params["a"], "c": -params["b"]}

    whole = named(compute.solve(log_c, log_l[None], None, how).params())
    params = {name: float(values[0]) for name, values in whole.items()}
    if drawn is None:
        return params, {}
    there = np.isfinite(drawn)
    filled = np.where(there, drawn, log_l)
    return params, named(compute.solve(log_c, filled, there.astype(np.float64), how).params())


LAW = Law(
    name=NAME,
    formula="N*(C) = k_n C^a, D*(C) = k_d C^b, L*(C) = E + k_l C^c",
    source="Hoffmann et al. 2022, section 3.2",
    options=Options,
    needs=("n", "d", "flops", "loss"),
    fit=fit,
    predict=predict,
    targets=(("flops",),),
    held_out="best",
    of_optima=True,
)
