"""A table of steps to a target loss at doubling batches, made from the law with noise."""

from __future__ import annotations

import numpy as np
import pandas as pd

ARGUMENTS = [
    "--law", "critical-batch", "--group", "model", "--loss", "target", "--option", "over=loss",
    "--option", "reference=131072", "--at", "loss=2.5",
]  # fmt: skip


def table() -> pd.DataFrame:
    """Five models at nine batches; B_crit = 2e8 / L^(1 / 0.21), as Kaplan et al. 2020 found."""
    g, rows = np.random.default_rng(0), []
    for model, loss, steps in (
        ("85M", 3.42, 9000), ("150M", 3.24, 14000), ("300M", 3.07, 22000), ("600M", 2.92, 36000),
        ("1.2B", 2.74, 60000),
    ):  # fmt: skip
        critical = 2e8 / loss ** (1 / 0.21)
        for batch in 2.0 ** np.arange(14, 23):
            noise = np.exp(0.03 * g.standard_normal())
            rows.append((model, loss, int(batch), round(steps * (1 + critical / batch) * noise)))
    return pd.DataFrame(rows, columns=["model", "target", "batch", "steps"])
