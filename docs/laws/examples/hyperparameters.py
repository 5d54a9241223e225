"""A table of learning-rate and batch grids, made from the rule of Li et al. 2025 with noise."""

from __future__ import annotations

import numpy as np
import pandas as pd

ARGUMENTS = [
    "--law", "hyperparameters", "--batch", "batch_seqs * 2048", "--option", "judge=deepseek",
    "--at", "n=7e9,d=2e12",
]  # fmt: skip


def table() -> pd.DataFrame:
    """Twelve cells of 88 runs; the loss is a bowl in log LR and log batch around the rule."""
    g, rows = np.random.default_rng(0), []
    for n in (1.2e8, 2.5e8, 5e8, 1e9):
        for ratio in (20, 80, 320):
            d = ratio * n
            lr, batch = 1.79 * n**-0.713 * d**0.307, 0.58 * d**0.571
            off = 0.15 * g.standard_normal(2)
            least = 1.7 + 400 * n**-0.34 + 410 * d**-0.28
            for at in 2.0 ** (np.round(2 * np.log2(lr)) / 2 + np.arange(-5, 6) / 2):
                for sequences in 2.0 ** (np.round(np.log2(batch / 2048)) + np.arange(-4, 4)):
                    bowl = 4e-3 * (np.log(at / lr) - off[0]) ** 2
                    bowl += 2.5e-3 * (np.log(sequences * 2048 / batch) - off[1]) ** 2
                    loss = least * (1 + bowl + 4e-4 * g.standard_normal())
                    rows.append((n, d, at, sequences, loss))
    return pd.DataFrame(rows, columns=["n", "d", "lr", "batch_seqs", "loss"])
