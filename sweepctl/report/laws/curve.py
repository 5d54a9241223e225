"""Loss curves: measured points with the law over updates, the learning rates, and how far the law is off."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from sweepctl.laws.fit import Fit
from sweepctl.report.figure import legend_name
from sweepctl.report.laws.panel import Panel

LEGEND = 10
"""Runs up to which each is named."""


def panels(fit: Fit) -> list[Panel]:
    """Losses with the law, fitted runs solid and predicted ones dashed; learning rates; errors."""
    runs: dict[str, Any] = fit.details["runs"]
    shades = plt.get_cmap("tab10" if len(runs) <= 10 else "viridis")
    colors = [shades(i if len(runs) <= 10 else i / len(runs)) for i in range(len(runs))]

    def losses(ax: Axes) -> None:
        laws = []
        for color, (name, run) in zip(colors, runs.items(), strict=True):
            target = run["role"] == "target"
            ax.plot(run["path"]["step"], run["law"], color=color, lw=1.1, ls="--" if target else "-",
                    label=legend_name(f"{name[:18]}{', predicted' if target else ''}"))  # fmt: skip
            laws.append(run["law"])
            if "points" in run:
                ax.plot(run["points"]["step"], run["points"]["loss"], ".", ms=3, color=color, alpha=0.5)
        values = np.concatenate(laws)
        low, high = float(values.min()), float(np.percentile(values, 97))
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        ax.set(xlabel="updates", ylabel="loss (nats a token)", title=fit.protocol["form"])
        if len(runs) <= LEGEND:
            ax.legend(fontsize=7, frameon=False)

    def rates(ax: Axes) -> None:
        for color, run in zip(colors, runs.values(), strict=True):
            style = "--" if run["role"] == "target" else "-"
            ax.plot(run["path"]["step"], run["path"]["lr"], style, color=color, lw=1.1)
        ax.set(xlabel="updates", ylabel="learning rate", title="learning rates after warmup")
        ax.set_ylim(bottom=0)

    def errors(ax: Axes) -> None:
        for color, run in zip(colors, runs.values(), strict=True):
            if "points" not in run:
                continue
            mark = "x" if run["role"] == "target" else "."
            ax.plot(run["points"]["step"], 100 * np.array(run["points"]["error"]), mark, ms=3, color=color)
        ax.axhline(0, color="black", lw=0.8)
        ax.set(
            xlabel="updates", ylabel="law over measured, minus one (%)", title="errors (x: predicted runs)"
        )

    return [losses, rates, errors]
