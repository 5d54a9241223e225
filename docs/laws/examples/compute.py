"""Eight compute-optimal runs, of which the two largest are only predicted."""

from __future__ import annotations

import numpy as np
import pandas as pd

ARGUMENTS = ["--law", "compute", "--row", "name", "--at", "flops=1e24"]


def table() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    flops = np.geomspace(2.6e18, 2.3e22, 8)
    loss = (1.7 + 2070 * flops**-0.155) * np.exp(0.003 * draw.standard_normal(8))
    names = ["111M", "256M", "590M", "1.3B", "2.7B", "4.5B", "6.7B", "13B"]
    role = ["fit"] * 6 + ["target"] * 2
    return pd.DataFrame({"name": names, "flops": flops, "loss": loss, "role": role})
