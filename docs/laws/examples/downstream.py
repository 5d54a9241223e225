"""A table for the page on downstream accuracy: a ladder of runs with checkpoints, and how it is fitted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sweepctl.laws.downstream import first_step, sigmoid

SIZE = {"E": 0.5, "A": 15.0, "alpha": 0.2, "B": 60.0, "beta": 0.25}
CURVE = {"a": -0.73, "x0": 0.77, "k": 12.0, "b": 0.99}
ARGUMENTS = ["--law", "downstream", "--at", "n=1.3e10,d=5e12"]


def table() -> pd.DataFrame:
    """Sixteen runs of 0.2B to 1.3B parameters, twenty checkpoints each, and the end of one of 7B."""
    draw = np.random.default_rng(0)
    ladder = [(n, n * m, "fit") for n in (1.9e8, 3.7e8, 7.6e8, 1.3e9) for m in (20, 40, 100, 200)]
    rows = []
    for number, (n, d, role) in enumerate([*ladder, (6.9e9, 4e12, "target")]):
        shift = 0.004 * draw.standard_normal(2)
        for part in np.arange(1, 21) / 20 if role == "fit" else (1.0,):
            loss = first_step.value("nd", SIZE, {"n": n, "d": d * part})
            loss *= np.exp(shift[0] + 0.004 * draw.standard_normal())
            accuracy = sigmoid.value(CURVE, loss) + shift[1] + 0.004 * draw.standard_normal()
            rows.append((f"r{number}", role, n, d * part, round(loss, 4), round(accuracy, 4)))
    return pd.DataFrame(rows, columns=["run", "role", "n", "d", "task_loss", "accuracy"])
