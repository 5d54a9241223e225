"""A table for the page on over-training: the law of Gadre et al. for C4 with noise, and how it is fitted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sweepctl.laws import overtraining

PARAMS = {"E": 1.51, "a": 141.0, "b": 190.0, "eta": 0.121, "epsilon": 0.850, "k": 2.08, "gamma": 0.756}
ARGUMENTS = ["--law", "overtraining", "--at", "n=6.9e9,d=1.38e11"]


def table() -> pd.DataFrame:
    """Twelve small runs that are fitted, one of 1.4B for the second step, two that are only predicted."""
    draw = np.random.default_rng(0)
    places = [(n, m, "fit") for n in (1.06e7, 7.89e7, 1.54e8, 4.12e8) for m in (20, 80, 320)]
    places += [(1.44e9, 20, "task"), (1.44e9, 640, "target"), (6.89e9, 20, "target")]
    rows = []
    for n, m, role in places:
        loss = overtraining.loss(PARAMS, 6 * n * n * m, m) * np.exp(0.003 * draw.standard_normal())
        error = overtraining.error(PARAMS, loss) + 0.006 * draw.standard_normal()
        rows.append({"n": n, "d": n * m, "loss": round(loss, 4), "error": round(error, 4), "role": role})
    return pd.DataFrame(rows)
