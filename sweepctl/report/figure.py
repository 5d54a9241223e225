"""The one door to a picture: names from outside are shown as they are, and the file is put in place whole."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

from sweepctl.report.console import printable
from sweepctl.store.files import replacing

LONGEST = 40
"""Letters of a name in a picture."""


def legend_name(name: object) -> str:
    """A name as a legend takes it: matplotlib leaves out what begins with an underscore, and has no room for
    lines."""
    text = " ".join(printable(str(name)).split())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text


def save_figure(path: Path, figure: Figure, dpi: int = 130) -> None:
    """Write a picture, its ending says of which kind, and let go of it. No text in it is mathematics but the
    numbers of axes."""
    numbers = {
        tick
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        if not isinstance(axis.get_major_locator(), FixedLocator)
        for tick in axis.get_ticklabels(which="both")
    }
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in numbers:
            text.set_parse_math(False)
            text.set_text(printable(text.get_text()))
    with replacing(path) as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font lacks is shown as a box
        figure.savefig(scratch, dpi=dpi)
    plt.close(figure)
