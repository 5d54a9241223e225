"""The coordinate check as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sweepctl.check.coordinates import CoordinateResult
from sweepctl.check.slopes import Slope
from sweepctl.report.checks import rows_of
from sweepctl.report.figure import save_figure

_ROWS = {"activation": "RMS", "change": "change since init", "update": "update"}
_GREEN, _YELLOW, _RED, _GREY = "#2e7d4f", "#d79b00", "#c62828", "#9a9a9a"


def draw_coordinates(path: Path, result: CoordinateResult) -> None:
    """Small multiples: a row each for activations, their changes and updates, a quantity a panel, a line a
    step (darker is later), of the layer that is furthest from flat."""
    rows = {kind: [row for (k, _), row in rows_of(result).items() if k == kind] for kind in _ROWS}
    rows["update"] = [row for row in rows["update"] if row[0].part.count(".") == 0]
    rows = {kind: row for kind, row in rows.items() if row}
    columns = max(len(row) for row in rows.values())
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(2.3 * columns + 0.6, 2.2 * len(rows) + 0.9), sharex=True, squeeze=False
    )
    for (kind, panels), line in zip(rows.items(), axes, strict=True):
        for ax, slopes in zip(line, panels, strict=False):
            _draw(ax, slopes, result)
        for ax in line[len(panels) :]:
            ax.set_axis_off()
        line[0].set_ylabel(_ROWS[kind])
    for ax in (a for line in axes for a in line if a.axison):
        ax.tick_params(labelbottom=True)
    word = "holds" if result.holds else "does not hold"
    figure.suptitle(f"coordinates against {result.request.axis}: {word}", x=0.01, ha="left", fontsize=12)
    shown = ((_GREEN, "flat"), (_YELLOW, "unclear"), (_RED, "breaks"), (_GREY, "not judged"))
    handles = [Line2D([], [], color=color, label=label) for color, label in shown]
    figure.legend(handles=handles, loc="upper right", ncols=4, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    save_figure(path, figure)


def _draw(ax: Axes, slopes: list[Slope], result: CoordinateResult) -> None:
    last = max(result.request.steps)
    drawn: list[float] = []
    for slope in slopes:
        values = [value if value else np.nan for value in slope.values]
        color = _GREY if not slope.judged else _GREEN if slope.holds else _YELLOW if slope.unclear else _RED
        shade = 0.35 + 0.65 * np.log1p(slope.step) / np.log1p(last)
        ax.plot(result.sizes, values, "o-", color=color, alpha=shade, ms=2.5, lw=1.4)
        drawn += [value for value in values if np.isfinite(value)]
    judged = [s for s in slopes if s.judged and s.slope is not None]
    worst = max(judged or [s for s in slopes if s.slope is not None], key=lambda s: s.off, default=None)
    steepest = f"{worst.slope:+.2f}" if worst and worst.slope is not None else ""
    ax.set_title(f"{slopes[0].part}  {steepest}", fontsize=9, loc="left")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    if drawn:  # at least four octaves, so that what is flat looks flat
        middle = (np.log2(max(drawn)) + np.log2(min(drawn))) / 2
        half = max(2.0, (np.log2(max(drawn)) - np.log2(min(drawn))) / 2 + 0.3)
        ax.set_ylim(2 ** (middle - half), 2 ** (middle + half))
    ax.xaxis.set_major_locator(FixedLocator([float(size) for size in result.sizes]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.tick_params(labelsize=7)
    ax.grid(alpha=0.25, lw=0.5)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
