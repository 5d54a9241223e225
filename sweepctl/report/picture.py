"""Pictures of a sweep's fit, as PNG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sweepctl.laws import parametric
from sweepctl.laws.fit import Fit
from sweepctl.predict.stage import Scored
from sweepctl.report.console import count
from sweepctl.report.figure import legend_name, save_figure
from sweepctl.report.laws import isoflop


@dataclass(frozen=True)
class FitPicture:
    """What is drawn of a sweep."""

    name: str
    """Of the sweep."""
    runs: pd.DataFrame
    """Its table of runs."""
    n_column: str
    """The column of N that the fits used."""
    law: Fit
    """The parametric law."""
    isoflop: Fit | None
    """The isoFLOP law, where there is one."""
    scored: list[Scored]
    """What was predicted of its runs."""

    def used(self, fit: Fit) -> pd.DataFrame:
        """The runs a fit used."""
        return self.runs[self.runs["job"].isin({job for row in fit.rows_used for job in row.split()})]

    def by_size(self) -> list[tuple[float, pd.DataFrame, Any]]:
        """N, its runs in rising order of D, and a color."""
        used = self.used(self.law).sort_values("tokens")
        sizes = sorted({float(n) for n in used[self.n_column]})
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(sizes)))
        return [(n, used[used[self.n_column] == n], color) for n, color in zip(sizes, colors, strict=True)]


def draw_fit(path: Path, picture: FitPicture) -> None:
    """Three panels: loss over tokens by rung with the law and the prediction, isoFLOP parabolas, and the
    residuals of the law."""
    panels = [_draw_losses, *([_draw_isoflop] if picture.isoflop else []), _draw_residuals]
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4.6), constrained_layout=True)
    for draw, ax in zip(panels, axes, strict=True):
        draw(ax, picture)
    law = picture.law
    figure.suptitle(f"{picture.name}: {len(law.rows_used)} runs, {parametric_text(law)}", fontsize=11)
    save_figure(path, figure)


def parametric_text(law: Fit) -> str:
    """The law with its numbers."""
    p = law.params
    return (
        f"L = {p['E']:.3f} + {p['A']:.3g} / N^{p['alpha']:.3f} + {p['B']:.3g} / D^{p['beta']:.3f}, "
        f"N* ~ C^{law.derived['a']:.3f}"
    )


def _tokens_axis(ax: Axes) -> None:
    """A logarithmic axis of tokens, labelled as tables write them."""
    ax.set(xscale="log", xlabel="tokens D")
    ax.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _draw_losses(ax: Axes, picture: FitPicture) -> None:
    for n, rows, color in picture.by_size():
        tokens = rows["tokens"].to_numpy(dtype=float)
        grid = np.geomspace(tokens.min() / 1.15, tokens.max() * 1.15, 60)
        ax.plot(grid, parametric.loss(picture.law.params, n, grid), color=color, lw=1)
        ax.plot(
            tokens,
            rows["loss_nats"],
            "o",
            color=color,
            ms=5,
            label=legend_name(f"{rows['rung'].iloc[0]}, {count(n)}"),
        )
    scored = picture.scored
    if scored:
        middle = [s.predicted for s in scored]
        spread = [[s.predicted - s.low for s in scored], [s.high - s.predicted for s in scored]]
        ax.errorbar(
            [s.d for s in scored], middle, yerr=spread, fmt="x", color="crimson", ms=7, capsize=3,
            label="predicted before",
        )  # fmt: skip
    _tokens_axis(ax)
    ax.set(ylabel="loss (nats a token)", title="loss by rung, and the law")
    ax.legend(fontsize=8)


def _draw_isoflop(ax: Axes, picture: FitPicture) -> None:
    """The budgets as the isoFLOP law fitted them, and the optimum by the parametric law through them."""
    if picture.isoflop is None:
        return
    isoflop.losses(ax, picture.isoflop)
    ax.set_title("isoFLOP")
    if picture.isoflop.protocol.get("over", "n") == "n":
        budgets = [minimum["flops"] for minimum in picture.isoflop.details["minima"]]
        c = np.geomspace(budgets[0] / 2, budgets[-1] * 2, 30)
        law = picture.law
        best_n, best_d = parametric.optimum(law.params, c, parametric.per_token_of(law))
        least = parametric.loss(law.params, best_n, best_d)
        ax.plot(best_n, least, "k--", lw=1, label="optimum by the parametric law")
    ax.legend(fontsize=8)


def _draw_residuals(ax: Axes, picture: FitPicture) -> None:
    for n, rows, color in picture.by_size():
        tokens = rows["tokens"].to_numpy(dtype=float)
        predicted = parametric.loss(picture.law.params, n, tokens)
        off = 100 * (predicted / rows["loss_nats"].to_numpy(dtype=float) - 1)
        ax.plot(tokens, off, "o-", color=color, ms=4, lw=0.8)
    ax.axhline(0, color="black", lw=0.8)
    _tokens_axis(ax)
    ax.set(ylabel="law over measured, minus one (%)", title="residuals")
