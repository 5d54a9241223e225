"""The parametric law: loss over tokens by size, what is left of it, and the optimum it gives a budget."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm

from sweepctl.laws import parametric
from sweepctl.laws.fit import Fit
from sweepctl.report.console import count
from sweepctl.report.laws.panel import Panel, logarithmic

CURVES = 8
REACH = 100.0
"""How many times the largest budget of the runs the optimum is drawn up to."""


def panels(fit: Fit) -> list[Panel]:
    """Losses with the law, residuals, and N* over C; `details` holds the points."""
    n, d, loss = (np.asarray(fit.details["points"][role]) for role in ("n", "d", "loss"))
    scale = ScalarMappable(LogNorm(n.min(), max(n.max(), 1.001 * n.min())), "viridis")

    def losses(ax: Axes) -> None:
        ax.scatter(d, loss, c=scale.to_rgba(n), s=14)
        grid = np.geomspace(d.min(), d.max(), 60)
        for size in np.geomspace(n.min(), n.max(), CURVES):
            ax.plot(grid, parametric.loss(fit.params, size, grid), lw=1, color=scale.to_rgba(size))
        logarithmic(ax, "x", "tokens D")
        ax.set(ylabel="loss (nats a token)", title=f"N from {count(n.min())} to {count(n.max())}")

    def residuals(ax: Axes) -> None:
        ax.scatter(d, 100 * np.expm1(np.asarray(fit.residuals)), c=scale.to_rgba(n), s=14)
        ax.axhline(0, color="black", lw=0.8)
        logarithmic(ax, "x", "tokens D")
        ax.set(ylabel="law over measured, minus one (%)", title="residuals")
        bar = plt.colorbar(scale, ax=ax, label="parameters N")
        logarithmic(bar.ax, "y", "parameters N")

    def optimum(ax: Axes) -> None:
        _optimum(ax, fit, n, d)

    unknown = {f"not_identified:{name}" for name in ("alpha", "beta")} & set(fit.flags)
    return [losses, residuals] if unknown else [losses, residuals, optimum]


def _optimum(ax: Axes, fit: Fit, n: np.ndarray, d: np.ndarray) -> None:
    """The runs, and the size of least loss at each budget with its 95 % interval."""
    per_token = parametric.per_token_of(fit)
    flops = (per_token[0] * n + per_token[1]) * d
    grid = np.geomspace(flops.min(), flops.max() * REACH, 80)
    best = parametric.optimum(fit.params, grid, per_token)[0]
    ax.plot(flops, n, "o", color="0.65", ms=3, label="runs")
    ax.plot(grid, best, color="black", lw=1.2, label="least loss")
    if fit.samples:
        drawn = parametric.optimum({k: v[:, None] for k, v in fit.arrays().items()}, grid, per_token)[0]
        low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
        ax.fill_between(grid, low, high, color="tab:red", alpha=0.25, lw=0, label="95 % interval")
    logarithmic(ax, "x", f"FLOPs C, {fit.protocol.get('optimum', 'C = 6 N D')[4:].partition(',')[0]}")
    logarithmic(ax, "y", "parameters N*")
    ax.set(title=f"N* ~ C^{fit.derived['a']:.3f}")
    ax.tick_params(axis="x", labelsize=8)
    ax.legend(fontsize=8, frameon=False)
