"""The parametric law: loss over tokens by size, and what is left of it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from sweepctl.laws import parametric
from sweepctl.laws.law import Fit
from sweepctl.report.console import count
from sweepctl.report.laws.panel import Panel, logarithmic

CURVES = 8


def panels(made: Fit) -> list[Panel]:
    """Losses with the law, and residuals; `details` holds the points."""
    n, d, loss = (np.asarray(made.details["points"][role]) for role in ("n", "d", "loss"))
    colors = plt.get_cmap("viridis")((np.log(n) - np.log(n.min())) / max(1e-9, np.ptp(np.log(n))))

    def losses(ax: Axes) -> None:
        ax.scatter(d, loss, c=colors, s=14)
        grid = np.geomspace(d.min(), d.max(), 60)
        for size in np.geomspace(n.min(), n.max(), CURVES):
            share = (np.log(size) - np.log(n.min())) / max(1e-9, np.ptp(np.log(n)))
            ax.plot(
                grid, parametric.loss(made.params, size, grid), lw=1, color=plt.get_cmap("viridis")(share)
            )
        logarithmic(ax, "x", "tokens D")
        ax.set(ylabel="loss (nats a token)", title=f"N from {count(n.min())} to {count(n.max())}")

    def residuals(ax: Axes) -> None:
        ax.scatter(d, 100 * np.expm1(np.asarray(made.residuals)), c=colors, s=14)
        ax.axhline(0, color="black", lw=0.8)
        logarithmic(ax, "x", "tokens D")
        ax.set(ylabel="law over measured, minus one (%)", title="residuals")

    return [losses, residuals]
