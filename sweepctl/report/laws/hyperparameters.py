"""Learning rate and batch: the optima with their power laws, and what the laws would have cost."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from sweepctl.laws.fit import Fit
from sweepctl.laws.hyperparameters.powers import power_at
from sweepctl.report.console import count
from sweepctl.report.figure import legend_name
from sweepctl.report.laws.panel import Panel, logarithmic, shades

LINES = 4
NAMES = {"lr": "peak learning rate", "batch": "batch (tokens)"}
PREDICTORS = {"n": "parameters N", "d": "tokens D", "flops": "FLOPs C", "batch": "batch (tokens)"}


def panels(fit: Fit) -> list[Panel]:
    """A panel for each law over its first predictor, coloured by the second, and the gaps by cell."""
    roles = fit.details["over"]
    drawn: list[Panel] = [
        lambda ax, role=role, over=over: _law(ax, fit, role, over)  # type: ignore[misc]
        for role, over in roles.items()
    ]
    if any(cell.get("gap") is not None for cell in fit.details["cells"]):
        drawn.append(lambda ax: _gaps(ax, fit))
    return drawn


def _law(ax: Axes, fit: Fit, role: str, over: list[str]) -> None:
    points = fit.details["points"][role]
    value = np.asarray(points["value"])
    if not over:
        ax.plot(np.arange(len(value)), value, "o", ms=4)
        ax.axhline(fit.params[f"{role}_factor"], color="black", lw=1)
        ax.set_xlabel("optimum")
    else:
        _curves(ax, fit, role, over, points, value)
    logarithmic(ax, "y", NAMES[role])
    _finer(ax, "y", value.min(), value.max())
    letters = {"n": "N", "d": "D", "flops": "C", "batch": "B"}
    powers = " ".join(f"{letters[name]}^{fit.params[f'{role}_{name}']:.3f}" for name in over)
    sign = "LR" if role == "lr" else "B"
    ax.set_title(f"{sign} = {fit.params[f'{role}_factor']:.4g} {powers}", fontsize=9)


def _curves(
    ax: Axes, fit: Fit, role: str, over: list[str], points: dict[str, Any], value: np.ndarray[Any, Any]
) -> None:
    first = np.asarray(points[over[0]])
    spread = np.exp(0.02 * np.random.default_rng(0).uniform(-1, 1, len(value)))  # so that equal ones show
    grid = np.geomspace(first.min() / 1.3, first.max() * 1.3, 40)
    rest = over[1:]
    middle = {name: float(np.exp(np.log(points[name]).mean())) for name in rest}
    second = np.asarray(points[rest[0]]) if rest else first
    colors = shades(second, second) if rest else "tab:blue"
    ax.scatter(first * spread, value * spread[::-1], c=colors, s=12, alpha=0.6)
    for level in np.geomspace(second.min(), second.max(), LINES) if rest else [1.0]:
        held = {**middle, rest[0]: level} if rest else {}
        ax.plot(
            grid, power_at(fit.params, role, over, {over[0]: grid, **held}), lw=1.2,
            color=shades(level, second) if rest else "black",
            label=f"{PREDICTORS[rest[0]].split()[-1]} = {_short(level)}" if rest else None,
        )  # fmt: skip
    logarithmic(ax, "x", PREDICTORS[over[0]])
    _finer(ax, "x", first.min(), first.max())
    if rest:
        ax.legend(fontsize=7, frameon=False)


def _finer(ax: Axes, axis: str, low: float, high: float) -> None:
    """Numbers at 2 and 5 too where the axis spans less than two decades."""
    which = ax.xaxis if axis == "x" else ax.yaxis
    if high < 100 * low:
        which.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    if high < 1:
        which.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))


def _short(value: float) -> str:
    return count(value) if value < 1e15 else f"{value:.1e}"


def _gaps(ax: Axes, fit: Fit) -> None:
    rows = fit.details["cells"]
    judged = fit.protocol.get("judge", "none")
    places = np.arange(len(rows))
    shown = [("gap", "this law", "tab:blue"), ("judged_gap", judged, "tab:orange")]
    shown = [bar for bar in shown if any(row.get(bar[0]) is not None for row in rows)]
    for number, (name, label, color) in enumerate(shown):
        height = 0.8 / len(shown)
        values = [row.get(name) or 0.0 for row in rows]
        ax.barh(places + (number - (len(shown) - 1) / 2) * height, values, height, label=label, color=color)
    names = [
        f"{_short(row['n'])}, {_short(row['d'])}" if {"n", "d"} <= set(row) else legend_name(row["cell"])
        for row in rows
    ]
    ax.set_yticks(places, names, fontsize=6 if len(rows) > 10 else 8)
    ax.invert_yaxis()
    ax.set_xlabel("loss at the law's setting over the cell's least (%)")
    ax.set_title("gap in each cell (N, D)", fontsize=9)
    ax.legend(fontsize=7, frameon=False)
