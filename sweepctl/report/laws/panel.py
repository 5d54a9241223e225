"""What the pictures of laws share."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sweepctl.laws.observations import Floats
from sweepctl.report.console import count

Panel = Callable[[Axes], None]
"""Draws into the axes it is given."""


def logarithmic(ax: Axes, axis: str, label: str) -> None:
    """A logarithmic axis (x or y), its numbers written as tables write them."""
    ax.set(**{f"{axis}scale": "log", f"{axis}label": label})
    which = ax.xaxis if axis == "x" else ax.yaxis
    which.set_major_locator(LogLocator(10, numticks=8))
    counts = "FLOPs" not in label
    which.set_major_formatter(FuncFormatter(lambda v, _: count(v) if counts and v < 1e15 else f"{v:.0e}"))
    which.set_minor_formatter(NullFormatter())


def spaced(values: Floats, most: int = 6) -> Floats:
    """The values, or where they are many as many others, evenly spread over their range in logarithms."""
    if len(values) <= most:
        return values
    return np.asarray(np.geomspace(values.min(), values.max(), most))


def shades(values: Floats | float, among: Floats) -> Floats:
    """A colour for a value, or for each of several, by the place of its logarithm among all: [values, 4]."""
    low, high = np.log(among.min()), np.log(among.max())
    share = (np.log(values) - low) / max(1e-9, high - low)
    return np.asarray(plt.get_cmap("viridis")(0.9 * np.clip(share, 0, 1)))
