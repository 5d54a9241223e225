"""Loss over compute with the law, and what is left of it run by run."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from sweepctl.laws import compute
from sweepctl.laws.fit import Fit, percentile_interval
from sweepctl.laws.observations import Floats
from sweepctl.report.laws.panel import Panel, logarithmic


def panels(fit: Fit) -> list[Panel]:
    """Losses with the law and its interval, and deviations in percent (Dey et al. 2023, figure 5)."""
    rows = fit.details["deviations"]
    c, loss, off = (np.array([row[k] for row in rows]) for k in ("flops", "loss", "deviation"))
    fitted = np.array([row["fitted"] for row in rows])
    grid = np.geomspace(c.min() / 2, c.max() * 4, 60)
    law = compute.loss(fit.params, grid)
    bands = [(value, value) for value in law]
    if fit.samples:
        bands = [percentile_interval(compute.loss(fit.arrays(), value)) for value in grid]
    low, high = np.array(bands).T

    def points(ax: Axes, y: Floats) -> None:
        ax.plot(c[fitted], y[fitted], "o", color="tab:blue", ms=5, label="fitted")
        if not fitted.all():
            ax.plot(c[~fitted], y[~fitted], "D", color="tab:red", mfc="none", ms=5, label="not fitted")
        logarithmic(ax, "x", "FLOPs C")

    def losses(ax: Axes) -> None:
        ax.fill_between(grid, low, high, color="0.85", label="95 % interval of the law")
        ax.plot(grid, law, lw=1, color="black")
        points(ax, loss)
        if fit.params["E"] > 0:
            ax.axhline(fit.params["E"], lw=0.8, ls=":", color="black", label="E")
        p = fit.params
        ax.set(ylabel="loss (nats a token)", title=f"L = {p['E']:.3f} + {p['a']:.3g} C^-{p['b']:.3f}")
        ax.legend(fontsize=8)

    def deviations(ax: Axes) -> None:
        ax.fill_between(grid, 100 * (low / law - 1), 100 * (high / law - 1), color="0.85")
        ax.axhline(0, color="black", lw=0.8)
        points(ax, off)
        ax.set(ylabel="measured over law, minus one (%)", title="deviation by run")

    return [losses, deviations]
