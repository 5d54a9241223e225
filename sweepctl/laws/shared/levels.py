"""Levels: values that count as one because they lie close together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.observations import Floats


def levels(values: Floats, tolerance: float) -> NDArray[np.int64]:
    """The number of each value's level [rows], from 0 on in rising order.

    A level starts at its least value and holds what lies within the tolerance above it, as a share.
    """
    numbers = np.zeros(len(values), dtype=np.int64)
    level, least = -1, 0.0
    for i in np.argsort(values, kind="stable"):
        if level < 0 or values[i] > least * (1 + tolerance):
            level, least = level + 1, values[i]
        numbers[i] = level
    return numbers
