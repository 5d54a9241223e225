"""IsoFLOP: the parabolas with their minima, and the power laws through them."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from sweepctl.laws.law import Fit
from sweepctl.report.laws.panel import Panel, logarithmic


def panels(made: Fit) -> list[Panel]:
    """N* over C with the power law."""
    minima = made.details["minima"]
    c, n = np.array([m["flops"] for m in minima]), np.array([m["n"] for m in minima])

    def optimum(ax: Axes) -> None:
        grid = np.geomspace(c.min() / 2, c.max() * 4, 40)
        ax.plot(grid, made.params["k_n"] * grid ** made.params["a"], lw=1, color="black")
        ax.plot(c, n, "o", color="tab:red", ms=5)
        logarithmic(ax, "x", "FLOPs C")
        logarithmic(ax, "y", "parameters N*")
        ax.set(title=f"N* ~ C^{made.params['a']:.3f}")

    return [optimum]
