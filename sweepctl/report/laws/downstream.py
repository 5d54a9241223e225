"""Downstream: the task's loss over tokens or compute, and accuracy over the loss."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from sweepctl.laws.downstream import first_step, sigmoid
from sweepctl.laws.fit import Fit
from sweepctl.report.console import count
from sweepctl.report.laws.panel import Panel, logarithmic, shades, spaced


def panels(fit: Fit) -> list[Panel]:
    """Step 1 through the ends of the runs; step 2 through all points; both with the runs only predicted."""
    runs, targets = fit.details["runs"], fit.details["targets"]
    form = fit.protocol["step1"]
    axis, label = ("d", "tokens D") if form == "nd" else ("flops", "FLOPs C")

    def first(ax: Axes) -> None:
        x, y = (np.array([run[role] for run in runs]) for role in (axis, "task_loss"))
        measured = [row for row in targets if row["quantity"] == "task loss" and form == "nd"]
        grid = np.geomspace(x.min() / 1.5, max([x.max(), *(row["d"] for row in measured)]) * 1.5, 80)
        if form == "nd":
            sizes = np.array([run["n"] for run in runs] + [row["n"] for row in measured])
            lines = spaced(np.unique(sizes))
            for n, color in zip(lines, shades(lines, sizes), strict=True):
                losses = first_step.value(form, fit.params, {"n": n, "d": grid})
                ax.plot(grid, losses, lw=1, color=color, label=count(float(n)))
            ax.scatter(x, y, c=shades(sizes[: len(x)], sizes), s=20, zorder=3)
            edges = shades(sizes[len(x) :], sizes).tolist()
            ax.scatter([row["d"] for row in measured], [row["actual"] for row in measured], marker="D", s=30,
                       facecolors="none", edgecolors=edges, zorder=3)  # fmt: skip
            ax.legend(title="parameters N", fontsize=7, title_fontsize=7)
        else:
            ax.plot(grid, first_step.value(form, fit.params, {"flops": grid}), lw=1, color="black")
            ax.scatter(x, y, s=20, color="tab:blue", zorder=3)
        logarithmic(ax, "x", label)
        ax.set(ylabel="task loss", title="step 1: the ends of runs")

    def second(ax: Axes) -> None:
        points = {name: np.asarray(values) for name, values in fit.details["points"].items()}
        low = min(
            [points["task_loss"].min(), *(row["actual"] for row in targets if row["quantity"] == "task loss")]
        )
        grid = np.linspace(0.9 * low, points["task_loss"].max(), 120)
        if fit.samples:
            drawn = {name: values[:, None] for name, values in fit.arrays().items()}
            band = np.nanpercentile(sigmoid.value(drawn, grid), [2.5, 97.5], axis=0)
            ax.fill_between(grid, *band, color="tab:gray", alpha=0.3, lw=0)
        ax.scatter(points["task_loss"], points["accuracy"], s=4, color="tab:blue", alpha=0.4, lw=0)
        ax.plot(grid, sigmoid.value(fit.params, grid), lw=1, color="black")
        measured = [row for row in targets if row["quantity"] == "task loss"]
        actual = [row["actual"] for row in targets if row["quantity"] == "chained accuracy"]
        chained = [row["predicted"] for row in targets if row["quantity"] == "chained accuracy"]
        if measured:
            ax.scatter([row["actual"] for row in measured], actual, marker="D", s=30, facecolors="none",
                       edgecolors="tab:red", zorder=3, label="measured")  # fmt: skip
            ax.scatter([row["predicted"] for row in measured], chained, marker="x", s=30, color="tab:red",
                       zorder=3, label="predicted by the chain")  # fmt: skip
            ax.legend(fontsize=7)
        ax.set(xlabel="task loss", ylabel="accuracy", title="step 2: points of all runs, 95 % band")

    return [first, second]
