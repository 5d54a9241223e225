"""What every law takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
"""Coverage of every interval."""


class CannotFit(ValueError):
    """The data do not carry this law; the message is one sentence that says what is missing."""


@dataclass(frozen=True)
class Observations:
    """Annealed losses: N in parameters, D in tokens, C in FLOPs, loss in nats, each [rows].

    `rows` names each row; `excluded` are the rows that were left out before, with the reason.
    """

    n: Floats
    d: Floats
    flops: Floats
    loss: Floats
    rows: tuple[str, ...]
    excluded: tuple[tuple[str, str], ...] = ()
    accounting: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("n", "d", "flops", "loss"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, values)
            if values.shape != (len(self.rows),):
                raise CannotFit(f"{name} has {values.size} values for {len(self.rows)} rows.")
            if not (np.isfinite(values).all() and (values > 0).all()):
                bad = self.rows[int(np.argmin(np.where(np.isfinite(values), values, -np.inf)))]
                raise CannotFit(f"{name} must be a finite number above 0 in every row; row {bad} is not.")

    def __len__(self) -> int:
        return len(self.rows)


@dataclass
class Fit:
    """A law fitted to observations: a claim with its intervals, its protocol and what it stands on.

    `samples` are the parameters of every replicate behind the intervals, `residuals` the log residuals of
    the rows used; both are what later predictions draw from.
    """

    law: str
    protocol: dict[str, Any]
    accounting: dict[str, str]
    params: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    objective: float
    rows_used: list[str]
    rows_excluded: list[dict[str, str]]
    starts: dict[str, int]
    flags: list[str] = field(default_factory=list)
    derived: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    residuals: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A value with the interval of the law there (`interval`), and of a new run there (`run_interval`), which
    adds the scatter of runs around the law."""

    value: float
    interval: tuple[float, float]
    run_interval: tuple[float, float]


def percentile_interval(samples: Floats) -> tuple[float, float]:
    """The central LEVEL of the samples, by percentiles."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)
