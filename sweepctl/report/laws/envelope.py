"""The envelope: the curves with the points that touch it, and the power laws through them."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from sweepctl.laws.fit import Fit
from sweepctl.laws.observations import Floats
from sweepctl.report.laws.panel import Panel, logarithmic, shades


def panels(fit: Fit) -> list[Panel]:
    """Loss over FLOPs, N* over C and D* over C."""
    envelope, points = fit.details["envelope"], fit.details["points"]
    c, n, d, loss = (np.array([params[k] for params in envelope]) for k in ("flops", "n", "d", "loss"))
    every, sizes, losses = (np.asarray(points[k]) for k in ("flops", "n", "loss"))
    names = np.array(points["curve"])
    grid = np.geomspace(every.min(), every.max() * 3, 60)
    params = fit.params

    def curves(ax: Axes) -> None:
        for name in fit.details["curves"]:
            rows = np.flatnonzero(names == name)
            rows = rows[np.argsort(every[rows])]
            ax.plot(every[rows], losses[rows], "-", lw=0.8, ms=2, color=shades(sizes[rows[0]], sizes))
        ax.plot(grid, params["k_l"] * grid ** params["c"], "--", lw=1, color="black", label="law")
        ax.plot(c, loss, "o", ms=4, mfc="none", color="tab:red", label="envelope")
        logarithmic(ax, "x", "FLOPs C")
        ax.set(yscale="log", ylabel="loss (nats a token)", title=f"L* ~ C^{params['c']:.3f}")
        low, high = float(losses.min()), float(losses.max())
        ticks = np.unique(np.round(np.geomspace(low, high, 6), 1 if high - low > 0.6 else 2))
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.legend(fontsize=8)

    def line(values: Floats, exponent: str, factor: str, label: str, name: str) -> Panel:
        def panel(ax: Axes) -> None:
            ax.plot(grid, params[factor] * grid ** params[exponent], lw=1, color="black")
            ax.scatter(c, values, c=shades(n, sizes), s=22, zorder=3)
            logarithmic(ax, "x", "FLOPs C")
            logarithmic(ax, "y", label)
            ax.set(title=f"{name} ~ C^{params[exponent]:.3f}")

        return panel

    return [curves, line(n, "a", "k_n", "parameters N*", "N*"), line(d, "b", "k_d", "tokens D*", "D*")]
