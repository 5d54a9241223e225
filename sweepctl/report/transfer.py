"""The table of learning-rate transfer, as Lingle prints his (arXiv 2404.05728): losses by width and rate, the
best in bold, and whether the rate transfers; as JSON and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sweepctl.check.transfer import ROWS, RowPlan, RowResult
from sweepctl.plan.cost import Cost, sum_costs
from sweepctl.report.console import BOLD, END, GREEN, RED, YELLOW, duration, flops, many, table
from sweepctl.store.throughput import Rate

ASSUMED = 3e10
"""FLOP/s a worker where nothing has been measured: a core of a present CPU on models this small."""
COLORS = {"yes": GREEN, "no": RED, "not resolved": YELLOW}


def rate_name(rate: float) -> str:
    """2^-7 where it is a whole power of two."""
    power = math.log2(rate)
    return f"2^{power:.0f}" if abs(power - round(power)) < 1e-9 else f"{rate:.3g}"


def estimate(cost: Cost, rates: dict[str, Rate], workers: int) -> str:
    """How long the rest takes here, and by which speed."""
    if not cost.jobs:
        return "nothing left to train"
    speed = float(np.median([rate.flops_per_s for rate in rates.values()])) if rates else ASSUMED
    source = "measured here" if rates else "assumed"
    took = duration(cost.flops_exact / speed / workers)
    return (
        f"{many(cost.jobs, 'run')}, {flops(cost.flops_exact)} FLOPs: about {took} with "
        f"{many(workers, 'worker')} at {flops(speed)} FLOP/s each ({source})"
    )


def show_rows(out: Console, costs: dict[str, Cost], rates: dict[str, Rate], workers: int) -> None:
    """What rows there are, and what is left of each."""
    cells = [
        [
            name,
            ROWS[name].what,
            "yes" if ROWS[name].transfers else "no",
            str(cost.jobs),
            flops(cost.flops_exact),
        ]
        for name, cost in costs.items()
    ]
    columns = ["row", "what it changes", "expected", "runs left", "FLOPs"]
    out.print(table("rows of the transfer table", columns, cells, left=2))
    out.print(f"In all {estimate(sum_costs(costs.values()), rates, workers)}.")


def show_transfer(out: Console, results: Sequence[RowResult]) -> None:
    """The losses of all rows, and the verdicts."""
    for rates, group in groupby(results, key=lambda result: result.rates):
        cells = [line for result in group for line in _losses(result)]
        columns = ["row", "rung", *(rate_name(rate) for rate in rates), "optimum", "carried costs"]
        out.print(
            table("held-out loss (nats a token), mean over seeds, by base learning rate", columns, cells, 2)
        )
    cells = [_verdict(result) for result in results]
    columns = ["row", "transfers", "expected", "drift (log2)", "95 % interval", "same point", "why"]
    out.print(table("does the base's learning rate transfer", columns, cells, left=3))
    for result in results:
        if result.missing:
            out.print(f"{result.row.name}: {result.missing} of {result.losses.size} runs are missing.")
    noise = [
        f"{r.row.name} {r.verdict.noise:.3f}" for r in results if r.verdict and r.verdict.noise is not None
    ]
    if noise:
        out.print(f"Standard deviation of one loss around the optimum (nats): {', '.join(noise)}.")


def _losses(result: RowResult) -> Iterable[list[str]]:
    """A line a rung."""
    with np.errstate(invalid="ignore"):
        curves = result.losses.mean(axis=1)
    for number, (rung, curve) in enumerate(zip(result.rungs, curves, strict=True)):
        cells = [_loss(value) for value in curve]
        least = int(np.argmin(np.where(np.isnan(curve), math.inf, curve)))
        if math.isfinite(curve[least]):
            cells[least] = f"{BOLD}{cells[least]}{END}"
        at = cost = ""
        if result.verdict is not None:
            optimum = result.verdict.optima[number]
            mark = {"low": "<= ", "high": ">= ", "": ""}[optimum.edge]
            at, cost = f"{mark}2^{optimum.at:.2f}", _cost(optimum.cost, optimum.cost_interval)
        yield ["" if number else result.row.name, rung, *cells, at, "" if number == 0 else cost]


def _loss(value: float) -> str:
    return "-" if math.isnan(value) else "div." if math.isinf(value) else f"{value:.3f}"


def _cost(cost: float, interval: tuple[float, float] | None) -> str:
    if not math.isfinite(cost):
        return "diverges"
    spread = f" ± {interval[1] - cost:.3f}" if interval and interval[1] > cost else ""
    return f"{cost:.3f}{spread}"


def _verdict(result: RowResult) -> list[str]:
    verdict, expected = result.verdict, "yes" if result.row.transfers else "no"
    if verdict is None:
        return [result.row.name, "not resolved", expected, "", "", "", result.why]
    answer = f"{COLORS[verdict.transfers]}{verdict.transfers}{END}"
    bounds = "" if verdict.interval is None else " to ".join(_bound(x) for x in verdict.interval)
    same = "yes" if verdict.same_point else "no"
    return [result.row.name, answer, expected, f"{verdict.drift:+.2f}", bounds, same, result.why]


def _bound(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "open"


def transfer_json(results: Sequence[RowResult]) -> dict[str, Any]:
    """The same facts; null for a loss that is missing or an end that the grid does not bound."""
    return {"holds": all(result.holds for result in results), "rows": [_row_json(r) for r in results]}


def _row_json(result: RowResult) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "row": result.row.name,
        "sweep": result.sweep,
        "what": result.row.what,
        "expected": "yes" if result.row.transfers else "no",
        "missing": result.missing,
        "rungs": list(result.rungs),
        "rates": list(result.rates),
        "losses": [[[_number(x) for x in seed] for seed in rung] for rung in result.losses.tolist()],
        "diverged": int(np.isinf(result.losses).sum()),
    }
    verdict = result.verdict
    if verdict is None:
        return {**facts, "transfers": "not resolved", "why": result.why}
    optima = [
        {
            "rung": rung,
            "best_lr": 2.0**optimum.best,
            "optimum_lr": 2.0**optimum.at,
            "edge": optimum.edge or None,
            "loss": optimum.loss,
            "cost_nats": _number(optimum.cost),
            "cost_interval": optimum.cost_interval and [_number(x) for x in optimum.cost_interval],
        }
        for rung, optimum in zip(result.rungs, verdict.optima, strict=True)
    ]
    return {
        **facts,
        "transfers": verdict.transfers,
        "why": result.why,
        "drift_log2": verdict.drift,
        "drift_interval": verdict.interval and [_number(x) for x in verdict.interval],
        "same_point": verdict.same_point,
        "noise_nats": verdict.noise,
        "optima": optima,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def plan_json(planned: Sequence[RowPlan], costs: dict[str, Cost]) -> dict[str, Any]:
    """What is left to train."""
    return {
        "rows": [
            {
                "row": row_plan.row.name,
                "sweep": row_plan.sweep.name,
                "what": row_plan.row.what,
                "expected": "yes" if row_plan.row.transfers else "no",
                "runs_left": costs[row_plan.row.name].jobs,
                "flops_left": costs[row_plan.row.name].flops_exact,
            }
            for row_plan in planned
        ]
    }


def draw_transfer(path: Path, results: Sequence[RowResult]) -> None:
    """A panel a row: loss against the learning rate, a line a rung, the lowest loss marked."""
    import matplotlib.pyplot as plt

    from sweepctl.report.figure import save_figure

    columns = min(4, len(results))
    rows = -(-len(results) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(4.4 * columns, 3.7 * rows),
        squeeze=False,
        sharey=True,
        constrained_layout=True,
    )
    for ax, result in zip(axes.flat, results, strict=False):
        _panel(ax, result)
    for ax in list(axes.flat)[len(results) :]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("held-out loss (nats a token)")
    save_figure(path, figure)


def _panel(ax: Any, result: RowResult) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    from sweepctl.report.figure import legend_name

    x = np.log2(result.rates)
    finite = np.where(np.isfinite(result.losses), result.losses, np.nan)
    shades = colormaps["viridis"](np.linspace(0, 0.85, len(result.rungs)))
    for rung, seeds, color in zip(result.rungs, finite, shades, strict=True):
        curve = seeds.mean(axis=0)
        ax.plot(np.tile(x, (len(seeds), 1)).T, seeds.T, ".", color=color, ms=3, alpha=0.5)
        ax.plot(x, curve, "-", color=color, lw=1.4, label=legend_name(rung))
        if np.isfinite(curve).any():
            best = int(np.nanargmin(curve))
            ax.plot(x[best], curve[best], "*", color=color, ms=12, mec="black", mew=0.6, zorder=3)
    answer = result.verdict.transfers if result.verdict else "not resolved"
    ax.set_title(f"{result.row.name}: {answer}", fontsize=10)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="log2 of the base learning rate")
    ax.grid(alpha=0.25, lw=0.5)
    ax.legend(fontsize=8)
