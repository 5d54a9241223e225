"""IsoFLOP: the curves of the budgets with their minima, and the power laws through them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from sweepctl.laws.fit import Fit
from sweepctl.report.console import flops
from sweepctl.report.laws.panel import Panel, logarithmic

OVER = {"n": "parameters N", "d": "tokens D", "m": "FLOPs a token M"}


def panels(fit: Fit) -> list[Panel]:
    """Loss over size by budget, N* and D* over C; over FLOPs a token, M* takes the place of N*."""
    minima = fit.details["minima"]
    c = np.array([minimum["flops"] for minimum in minima])

    def line(role: str, exponent: str, factor: str, label: str) -> Panel:
        def panel(ax: Axes) -> None:
            grid = np.geomspace(c.min() / 2, c.max() * 4, 40)
            ax.plot(grid, fit.params[factor] * grid ** fit.params[exponent], lw=1, color="black")
            ax.plot(c, [minimum[role] for minimum in minima], "*", color="tab:red", ms=9)
            logarithmic(ax, "x", "FLOPs C")
            logarithmic(ax, "y", label)
            interval = bound(fit, exponent)
            ax.set(title=f"{label.split()[-1]} ~ C^{fit.params[exponent]:.3f}{interval}")

        return panel

    over_m = fit.protocol.get("over") == "m"
    size = ("m", "a_m", "k_m", "FLOPs a token M*") if over_m else ("n", "a", "k_n", "parameters N*")
    return [lambda ax: losses(ax, fit), line(*size), line("d", "b", "k_d", "tokens D*")]


def losses(ax: Axes, fit: Fit) -> None:
    """The losses of every budget, the curve that the fit put through them, and its minimum."""
    over, budgets = fit.protocol.get("over", "n"), fit.details["budgets"]
    colors = plt.get_cmap("plasma")(np.linspace(0, 0.85, len(budgets)))
    stars = {minimum["flops"]: minimum for minimum in fit.details["minima"]}
    for color, budget in zip(colors, budgets, strict=True):
        shade = {"color": color, "alpha": 1.0 if budget["used"] else 0.35}
        label = flops(budget["flops"]) + ("" if budget["used"] else ", left out")
        ax.plot(budget["x"], budget["loss"], "o", ms=3.5, **shade)
        ax.plot(budget["curve"]["x"], budget["curve"]["loss"], "-", lw=1, label=label, **shade)
        if budget["flops"] in stars:
            star = stars[budget["flops"]]
            ax.plot(star[over], star["loss"], "*", color=color, ms=11, mec="black", mew=0.6, zorder=4)
    logarithmic(ax, "x", OVER[over])
    ax.set(ylabel="loss (nats a token)", title="losses, and the minimum of each budget")
    ax.legend(fontsize=7, ncols=1 if len(budgets) < 8 else 2, title="C in FLOPs", title_fontsize=7)


def bound(fit: Fit, name: str) -> str:
    """The interval of a parameter, for a title."""
    low, high = fit.intervals.get(name, (float("nan"), float("nan")))
    return f" ({low:.3f} to {high:.3f})" if np.isfinite([low, high]).all() else ""
