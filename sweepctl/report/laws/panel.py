"""What the pictures of laws share."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sweepctl.report.console import count

Panel = Callable[[Axes], None]
"""Draws into the axes it is given."""


def logarithmic(ax: Axes, axis: str, label: str) -> None:
    """A logarithmic axis (x or y), its numbers written as tables write them."""
    ax.set(**{f"{axis}scale": "log", f"{axis}label": label})
    one = ax.xaxis if axis == "x" else ax.yaxis
    one.set_major_locator(LogLocator(10, numticks=8))
    one.set_major_formatter(FuncFormatter(lambda value, _: count(value) if value < 1e15 else f"{value:.0e}"))
    one.set_minor_formatter(NullFormatter())
