"""A trunk at a constant learning rate, three branches of it, and a cosine that is only predicted."""

from __future__ import annotations

import numpy as np
import pandas as pd

ARGUMENTS = ["--law", "curve"]
PEAK, WARMUP = 3e-4, 2_000


def table() -> pd.DataFrame:
    """Tissue's form with the parameters of its released example; noise of 0.1 %, along runs and between."""
    draw = np.random.default_rng(1)
    frames = [_run("trunk", "fit", None, 24_000, np.arange(3_000, 24_001, 250), draw)]
    for end in (8_000, 12_000, 18_000):
        points = np.arange(int(0.8 * end), end + 1, 100)
        frames.append(_run(f"branch {end}", "fit", 0.8, end, points, draw))
    frames.append(_run("branch 24000", "target", 0.8, 24_000, np.arange(19_200, 24_001, 100), draw))
    frames.append(_run("cosine 24000", "target", 0.0, 24_000, np.empty(0, dtype=int), draw))
    return pd.concat(frames, ignore_index=True)


def _run(
    name: str, role: str, cut: float | None, end: int, points: np.ndarray, draw: np.random.Generator
) -> pd.DataFrame:
    """A run with the points that were measured; a branch has rows from its cut on, and names its trunk."""
    step = np.arange(end + 1)
    lr = PEAK * np.minimum(1.0, step / WARMUP)
    if cut is not None:
        start = max(WARMUP, cut * end)
        share = np.clip((step - start) / (end - start), 0, 1)
        lr *= (1 - 0.9 * share) if cut else 0.55 + 0.45 * np.cos(np.pi * share)
    counted, momentum, s2 = np.where(step < WARMUP, PEAK, lr), 0.0, np.zeros(end + 1)
    for i in range(1, end + 1):
        momentum = 0.999 * momentum + counted[i - 1] - counted[i]
        s2[i] = s2[i - 1] + momentum
    loss = 2.628 + 0.43 * np.cumsum(counted) ** -0.55 - 0.411 * s2
    noise = 5e-4 * draw.standard_normal() + 1e-3 * draw.standard_normal(end + 1)
    measured = np.isin(step, points)
    frame = pd.DataFrame({"run": name, "role": role, "step": step, "lr": lr, "loss": loss * np.exp(noise)})
    frame["loss"] = frame["loss"].where(measured)
    branch = bool(cut)
    frame["parent"] = "trunk" if branch else None
    kept = measured | (step % 50 == 0) | (step < 2)
    return frame[kept & (step >= (cut or 0) * end)] if branch else frame[kept]
