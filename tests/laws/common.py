"""What the tests of laws share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sweepctl.laws.observations import Observations

DATA = Path(__file__).parent / "data"
"""Public tables with known answers whose licences let them lie here; SOURCE.md says whose they are."""

SHARED = Path(__file__).parents[3] / "shared" / "data"
"""Public tables with known answers but without a licence: they may lie beside the checkout."""


def needs(table: str) -> pytest.MarkDecorator:
    """Skips a test where a table of SHARED is absent."""
    reason = f"{table} has no licence to lie in the repository, and is not in {SHARED}"
    return pytest.mark.skipif(not (SHARED / table).exists(), reason=reason)


def observed(n: Any, d: Any, flops: Any, loss: Any, rows: Sequence[str] | None = None) -> Observations:
    """Annealed losses."""
    return Observations.of(rows, n=n, d=d, flops=flops, loss=loss)
