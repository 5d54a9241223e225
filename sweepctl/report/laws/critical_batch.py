"""Critical batch: steps against batch with both definitions marked, and how the critical batch grows."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from sweepctl.laws.critical_batch import DEFINITIONS, predict
from sweepctl.laws.fit import Fit, Target
from sweepctl.report.figure import legend_name
from sweepctl.report.laws.panel import Panel, logarithmic

LABELS = {"loss": "loss (nats a token)", "n": "parameters N", "d": "tokens D"}
TITLES = {"B_crit": "B_crit = E_min / S_min", "B_overhead": "B_overhead", "batch": "best batch"}
MARKERS = {"B_crit": "D", "B_overhead": "s"}
COLORS = {"B_crit": "tab:red", "B_overhead": "tab:blue", "batch": "tab:red"}


def panels(fit: Fit) -> list[Panel]:
    """Steps against batch where there are curves; critical batches over what they follow, if anything."""
    drawn: list[Panel] = []
    if fit.details.get("curves"):
        drawn.append(lambda ax: _steps(ax, fit))
    if fit.details["over"]:
        drawn.append(lambda ax: _growth(ax, fit))
    return drawn


def _steps(ax: Axes, fit: Fit) -> None:
    curves = fit.details["curves"]
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(curves)))
    for curve, color in zip(curves, colors, strict=True):
        batch, steps = np.asarray(curve["batch"]), np.asarray(curve["steps"])
        grid = np.geomspace(batch.min() / 1.5, batch.max() * 1.5, 60)
        ax.plot(
            grid, curve["S_min"] + curve["E_min"] / grid, lw=1, color=color, label=legend_name(curve["curve"])
        )
        ax.plot(batch, steps, "o", ms=3.5, color=color)
        if not curve["not_identified"]:
            for name, marker in MARKERS.items():
                at = curve["S_min"] + curve["E_min"] / curve[name]
                ax.plot(curve[name], at, marker, ms=7, mfc="none", mec=COLORS[name])
    for name, marker in MARKERS.items():
        ax.plot([], [], marker, ms=7, mfc="none", mec=COLORS[name], ls="none", label=TITLES[name])
    logarithmic(ax, "x", "batch (tokens)")
    logarithmic(ax, "y", "steps to the target loss")
    ax.legend(fontsize=7, frameon=False)
    ax.set_title("S(B) = S_min + E_min / B", fontsize=9)


def _growth(ax: Axes, fit: Fit) -> None:
    over = fit.details["over"]
    role = over[0]
    names = DEFINITIONS if fit.details.get("curves") else ("batch",)
    rows: list[dict[str, Any]] = [
        row for row in fit.details.get("curves", []) if not row["not_identified"]
    ] or _rows(fit)
    x = np.array([row[role] for row in rows])
    grid = np.geomspace(x.min() / 1.2, x.max() * 1.2, 40)
    held = {
        role_name: float(np.exp(np.mean([np.log(row[role_name]) for row in rows]))) for role_name in over[1:]
    }
    for name in names:
        ends = [fit.intervals.get(f"{name}{row.get('suffix', '')}") for row in rows]
        y = np.array([row[name] for row in rows])
        ax.plot(x, y, "o", ms=4, color=COLORS[name])
        for at, end in zip(x, ends, strict=True):
            if end is not None and len(names) > 1:
                ax.plot([at, at], end, lw=1, color=COLORS[name])
        estimates = [predict(fit, Target({role: float(value), **held}))[name] for value in grid]
        ax.plot(
            grid, [estimate.value for estimate in estimates], lw=1.2, color=COLORS[name], label=TITLES[name]
        )
        low, high = np.array([estimate.interval for estimate in estimates]).T
        ax.fill_between(grid, low, high, color=COLORS[name], alpha=0.15, lw=0)
    logarithmic(ax, "x", LABELS[role])
    if role == "loss":
        ax.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    logarithmic(ax, "y", "critical batch (tokens)" if len(names) > 1 else "best batch (tokens)")
    ax.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    ax.legend(fontsize=7, frameon=False)
    rest = f", {', '.join(over[1:]).upper()} at its mean" if over[1:] else ""
    ax.set_title(f"over {role.upper() if role != 'loss' else role}{rest}", fontsize=9)


def _rows(fit: Fit) -> list[dict[str, Any]]:
    points = fit.details["points"]
    return [dict(zip(points, row, strict=True)) for row in zip(*points.values(), strict=True)]
