"""What the numbers of several laws stand on."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sweepctl.laws.numerics.linear import r_squared
from sweepctl.laws.numerics.rounding import above_rounding


@given(st.floats(0.01, 100), st.integers(2, 50), st.integers(0, 2**32 - 1))
def test_equal_targets_have_no_variance_to_explain(level: float, rows: int, seed: int) -> None:
    """Their mean is off by rounding, whose squares are no variance."""
    target = np.full(rows, level)
    off = 1 + 1e-15 * np.random.default_rng(seed).standard_normal(rows)
    assert np.isnan(r_squared(target * off, target * off))


def test_what_is_above_rounding() -> None:
    assert above_rounding(1e-6, 1.0) and not above_rounding(1e-12, 1.0) and not above_rounding(-1.0, 1.0)
    assert not above_rounding(0.0, 0.0)
    assert above_rounding(np.array([1e-6, 1e-12]), 1.0).tolist() == [True, False]
