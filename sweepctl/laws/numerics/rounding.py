"""What of a computed number is rounding: least squares give a slope that is 0 as one of either sign."""

from __future__ import annotations

from typing import Any

import numpy as np

ROUNDING = 1e-9
"""Share of its terms below which a sum or difference of floats says nothing."""


def above_rounding(value: Any, terms: Any) -> Any:
    """Whether a sum lies above 0 by more than the rounding of its terms, the largest of which has this size;
    arguments broadcast."""
    return np.asarray(value) > ROUNDING * np.abs(terms)
