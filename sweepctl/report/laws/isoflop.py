"""IsoFLOP: the curves of the budgets with their minima, and the power laws through them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from sweepctl.laws.law import Fit
from sweepctl.report.console import flops
from sweepctl.report.laws.panel import Panel, logarithmic

OVER = {"n": "parameters N", "d": "tokens D", "m": "FLOPs a token M"}


def panels(made: Fit) -> list[Panel]:
    """Loss over size by budget, N* and D* over C; over FLOPs a token, M* takes the place of N*."""
    minima = made.details["minima"]
    over = made.protocol.get("over", "n")
    c = np.array([one["flops"] for one in minima])

    def losses(ax: Axes) -> None:
        found = made.details["budgets"]
        colors = plt.get_cmap("plasma")(np.linspace(0, 0.85, len(found)))
        stars = {one["flops"]: one for one in minima}
        for color, one in zip(colors, found, strict=True):
            shade = {"color": color, "alpha": 1.0 if one["used"] else 0.35}
            told = flops(one["flops"]) + ("" if one["used"] else ", left out")
            ax.plot(one["x"], one["loss"], "o", ms=3.5, **shade)
            ax.plot(one["curve"]["x"], one["curve"]["loss"], "-", lw=1, label=told, **shade)
            if one["flops"] in stars:
                star = stars[one["flops"]]
                ax.plot(star[over], star["loss"], "*", color=color, ms=11, mec="black", mew=0.6, zorder=4)
        logarithmic(ax, "x", OVER[over])
        ax.set(ylabel="loss (nats a token)", title="losses, and the minimum of each budget")
        ax.legend(fontsize=7, ncols=1 if len(found) < 8 else 2, title="C in FLOPs", title_fontsize=7)

    def line(role: str, exponent: str, factor: str, label: str) -> Panel:
        def panel(ax: Axes) -> None:
            grid = np.geomspace(c.min() / 2, c.max() * 4, 40)
            ax.plot(grid, made.params[factor] * grid ** made.params[exponent], lw=1, color="black")
            ax.plot(c, [one[role] for one in minima], "*", color="tab:red", ms=9)
            logarithmic(ax, "x", "FLOPs C")
            logarithmic(ax, "y", label)
            told = bound(made, exponent)
            ax.set(title=f"{label.split()[-1]} ~ C^{made.params[exponent]:.3f}{told}")

        return panel

    size = ("m", "a_m", "k_m", "FLOPs a token M*") if over == "m" else ("n", "a", "k_n", "parameters N*")
    return [losses, line(*size), line("d", "b", "k_d", "tokens D*")]


def bound(made: Fit, name: str) -> str:
    """The interval of a parameter, for a title."""
    low, high = made.intervals.get(name, (float("nan"), float("nan")))
    return f" ({low:.3f} to {high:.3f})" if np.isfinite([low, high]).all() else ""
