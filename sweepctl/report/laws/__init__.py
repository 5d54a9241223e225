"""Pictures of laws: each law's module makes the panels of its fits, from what the fit itself holds."""

from __future__ import annotations

import importlib
from pathlib import Path

import matplotlib.pyplot as plt

from sweepctl.laws.fit import Fit
from sweepctl.report.figure import save_figure
from sweepctl.report.laws.panel import Panel


def draw(path: Path, fits: list[Fit]) -> None:
    """One figure with the panels of every fit, one row a fit; its ending says which kind of picture."""
    rows = [panels(fit) for fit in fits]
    width = max(len(row) for row in rows)
    size = (5.2 * width, 4.4 * len(rows))
    figure, axes = plt.subplots(len(rows), width, figsize=size, constrained_layout=True, squeeze=False)
    for fit, row, places in zip(fits, rows, axes, strict=True):
        for panel, ax in zip(row, places, strict=False):
            panel(ax)
        for ax in places[len(row) :]:
            ax.axis("off")
        places[0].set_title(f"{fit.law}: {places[0].get_title()}", fontsize=10)
    save_figure(path, figure, dpi=120)


def panels(fit: Fit) -> list[Panel]:
    """The panels of a fit, by the module of its law."""
    module = importlib.import_module(f"sweepctl.report.laws.{fit.law.replace('-', '_')}")
    drawn: list[Panel] = module.panels(fit)
    return drawn
