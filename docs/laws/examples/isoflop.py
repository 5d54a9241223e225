"""Six budgets of seven sizes by the law of Hoffmann et al. 2022, with the noise of seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd

ARGUMENTS = ["--law", "isoflop", "--at", "flops=1e23"]


def table() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows = []
    for flops in np.geomspace(1e18, 3e21, 6):
        best = 1.34 * (flops / 6) ** 0.452  # the law's N* is 1.34 (C / 6)^0.452
        for n in best * np.geomspace(0.25, 4, 7):
            d = flops / 6 / n
            loss = 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28
            rows.append((n, d, flops, loss * np.exp(0.001 * draw.standard_normal())))
    return pd.DataFrame(rows, columns=["n", "d", "flops", "loss"])
