"""What the tests of laws share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweepctl.laws.law import Observations

SHARED = Path(__file__).parents[3] / "shared" / "data"
"""Public tables with known answers; tests that need one are skipped where it is absent."""


def observed(n: Any, d: Any, flops: Any, loss: Any, rows: Sequence[str] | None = None) -> Observations:
    """Annealed losses."""
    return Observations.of(rows, n=n, d=d, flops=flops, loss=loss)
