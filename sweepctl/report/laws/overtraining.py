"""Over-training: reducible loss over compute by tokens a parameter, and the error over the loss."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from sweepctl.laws import overtraining
from sweepctl.laws.fit import Fit
from sweepctl.report.laws.panel import Panel, logarithmic, shades, spaced


def panels(fit: Fit) -> list[Panel]:
    """Loss over C with a curve for each ratio M, and where it was fitted, error over loss; both with the rows
    that were only predicted."""
    points = {name: np.asarray(values) for name, values in fit.details["points"].items()}
    targets = fit.details["targets"]
    factor = fit.derived["flops_per_nd"]
    losses = [
        (factor * row["n"] * row["d"], row["d"] / row["n"], row["actual"])
        for row in targets if row["quantity"] == "loss"
    ]  # fmt: skip

    def loss(ax: Axes) -> None:
        c = np.concatenate([points["flops"], [row[0] for row in losses]])
        m = np.concatenate([points["m"], [row[1] for row in losses]])
        grid = np.geomspace(c.min() / 2, c.max() * 2, 80)
        lines = spaced(np.unique(np.round(m, 6)))
        for ratio, color in zip(lines, shades(lines, m), strict=True):
            ax.plot(grid, overtraining.loss(fit.params, grid, ratio), lw=1, color=color, label=f"{ratio:.3g}")
        ax.scatter(points["flops"], points["loss"], c=shades(points["m"], m), s=22, zorder=3)
        if losses:
            x, ratios, y = np.array(losses).T
            colors = shades(ratios, m)
            ax.scatter(x, y, facecolors="none", edgecolors=colors.tolist(), marker="D", s=34, zorder=3)
        logarithmic(ax, "x", "FLOPs C")
        ax.set(ylabel="loss (nats a token)", title="fitted (dots), only predicted (diamonds)")
        ax.legend(title="tokens a parameter", fontsize=7, title_fontsize=7)

    def error(ax: Axes) -> None:
        used = {name: np.asarray(values) for name, values in fit.details["errors"].items()}
        grid = np.linspace(
            min([used["loss"].min(), *(row[2] for row in losses)]) * 0.98, used["loss"].max(), 80
        )
        drawn = fit.arrays()
        if fit.samples:
            many = overtraining.error(
                {name: drawn[name][:, None] for name in ("epsilon", "k", "gamma")}, grid
            )
            low, high = np.nanpercentile(many, [2.5, 97.5], axis=0)
            ax.fill_between(grid, low, high, color="tab:gray", alpha=0.2, lw=0)
        ax.plot(grid, overtraining.error(fit.params, grid), lw=1, color="black")
        ax.scatter(used["loss"], used["error"], s=22, color="tab:blue", zorder=3)
        actual = [row["actual"] for row in targets if row["quantity"] == "error at the true loss"]
        if actual:
            ax.scatter([row[2] for row in losses], actual, marker="D", s=34, facecolors="none",
                       edgecolors="tab:red", zorder=3)  # fmt: skip
        ax.set(xlabel="loss (nats a token)", ylabel="error on the task", title="second step, 95 % band")

    return [loss, error] if "errors" in fit.details else [loss]
