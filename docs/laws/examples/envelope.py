"""Training curves of 12 sizes by the law of Hoffmann et al. 2022, with noise of runs and of points."""

from __future__ import annotations

import numpy as np
import pandas as pd

ARGUMENTS = ["--law", "envelope", "--option", "edges=drop"]


def table() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows = []
    for size, n in enumerate(np.geomspace(5e6, 1e9, 12)):
        lifted = 0.003 * draw.standard_normal()
        for d in np.geomspace(n, 120 * n, 40):
            loss = 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28
            noise = lifted + 0.001 * draw.standard_normal()
            rows.append((f"size{size}", n, d, 6 * n * d, loss * np.exp(noise)))
    return pd.DataFrame(rows, columns=["run", "n", "d", "flops", "loss"])
