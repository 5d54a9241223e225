"""Groups compared: losses over FLOPs with each group's law, and what each gains on the baseline."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from sweepctl.laws import compare
from sweepctl.laws.fit import Fit, Target
from sweepctl.report.figure import legend_name
from sweepctl.report.laws.panel import Panel, logarithmic


def panels(fit: Fit) -> list[Panel]:
    """Laws with their points; differences in loss and ratios of compute over FLOPs, with their intervals."""
    groups, baseline = fit.details["groups"], fit.details["baseline"]
    low, high = (
        min(group["low"] for group in groups.values()),
        max(group["high"] for group in groups.values()),
    )
    grid = np.geomspace(low, high, 40)
    answers = [compare.predict(fit, Target({"flops": flops})) for flops in grid]
    colors = dict(zip(groups, plt.get_cmap("tab10")(np.arange(len(groups)) % 10), strict=True))

    def losses(ax: Axes) -> None:
        for name, group in groups.items():
            ax.plot(group["flops"], group["loss"], ".", color=colors[name], ms=6)
            ax.plot(
                grid,
                [row[f"{name}.loss"].value for row in answers],
                color=colors[name],
                lw=1.2,
                label=legend_name(name),
            )
        logarithmic(ax, "x", "FLOPs C")
        ax.set(ylabel="loss (nats a token)", title="loss over compute")
        ax.legend(fontsize=8, frameon=False)

    def against(what: str, label: str, level: float, title: str) -> Panel:
        def panel(ax: Axes) -> None:
            for name in groups:
                if name == baseline:
                    continue
                rows = [row[f"{name}.{what}"] for row in answers]
                ends = np.array([row.interval for row in rows])
                ax.plot(
                    grid, [row.value for row in rows], color=colors[name], lw=1.2, label=legend_name(name)
                )
                if fit.samples:
                    ax.fill_between(grid, *ends.T, color=colors[name], alpha=0.15, lw=0)
            ax.axhline(level, color="black", lw=0.8)
            ax.axvline(fit.derived["flops"], color="gray", lw=0.8, ls=":")
            logarithmic(ax, "x", "FLOPs C")
            ax.set(ylabel=label, title=title)
            ax.legend(fontsize=8, frameon=False)

        return panel

    difference = f"loss minus that of {baseline} (nats)"
    ratio = f"FLOPs of {baseline} over FLOPs"
    return [
        losses,
        against("loss_difference", difference, 0.0, "difference at equal compute, 95 %"),
        against("compute_ratio", ratio, 1.0, "compute at equal loss, 95 %"),
    ]
