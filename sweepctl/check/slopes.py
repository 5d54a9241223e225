"""Measurements at several sizes to slopes, and slopes to a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from sweepctl.train.measurements import Kind, Measurement

FLAT = 0.1
"""A slope of at most this is flat."""
FIRST_JUDGED = 2
"""With a zero-initialized head the blocks have no gradient at the first update."""


@dataclass(frozen=True, slots=True)
class Slope:
    """Of log2 of a quantity against log2 of the width (or depth), by least squares over sizes and seeds."""

    kind: Kind
    """What is measured of it."""
    name: str
    """The tensor or the activation."""
    step: int
    """Updates before it was measured."""
    slope: float | None
    """None where a value is 0 or not finite."""
    low: float | None
    """Lower end of the 95 % interval; None where there are too few points for one."""
    high: float | None
    """Its upper end."""
    values: tuple[float | None, ...]
    """Geometric means over seeds, one a size."""
    judged: bool
    """Whether the verdict depends on it."""

    @property
    def holds(self) -> bool:
        return not self.judged or self.off <= FLAT

    @property
    def unclear(self) -> bool:
        """Whether it does not hold, but its interval reaches what would."""
        if self.holds or self.low is None or self.high is None:
            return False
        return self.low <= FLAT and self.high >= -FLAT

    @property
    def breaks(self) -> bool:
        return not self.holds and not self.unclear

    @property
    def layer(self) -> str:
        """`blocks.N`, or "" outside the blocks."""
        parts = self.name.split(".")
        return ".".join(parts[:2]) if parts[0] == "blocks" else ""

    @property
    def part(self) -> str:
        """The name within its layer: the same in every one."""
        return self.name.removeprefix(self.layer).lstrip(".") or "block"

    @property
    def off(self) -> float:
        """How far from flat; infinite where there is no slope."""
        return math.inf if self.slope is None else abs(self.slope)


def slopes(
    measurements: Iterable[tuple[int, Measurement]], axis: str, zero_head: bool
) -> tuple[tuple[int, ...], list[Slope]]:
    """The sizes in rising order, and the slope of every quantity at every step.

    `measurements` are (size, measurement) of every size and seed. Of a quantity that stays 0 everywhere
    nothing is judged.
    """
    by_quantity: dict[tuple[Kind, str, int], list[tuple[int, Measurement]]] = {}
    for size, measurement in measurements:
        by_quantity.setdefault((measurement.kind, measurement.name, measurement.step), []).append(
            (size, measurement)
        )
    sizes = tuple(sorted({size for rows in by_quantity.values() for size, _ in rows}))
    fitted = []
    for (kind, name, step), rows in by_quantity.items():
        values = np.array([measurement.value for _, measurement in rows])
        judged = step >= FIRST_JUDGED and bool(values.any()) and _judged(rows[0][1], axis, zero_head)
        logs = np.log2(np.where(values > 0, values, np.nan))
        widths = np.array([size for size, _ in rows])
        slope, low, high = _line(np.log2(widths), logs)
        means = tuple(_number(2 ** float(logs[widths == size].mean())) for size in sizes)
        fitted.append(Slope(kind, name, step, slope, low, high, means, judged))
    return sizes, fitted


def _judged(measurement: Measurement, axis: str, zero_head: bool) -> bool:
    """Against width: all that is hidden, and logits under a zero head. Against depth only how the last
    block's output changes: a depth rule shares that out between branches and updates in its own way, and
    lets what the branches add at the initialization vanish (CompleteP, arXiv 2505.01618, section 4)."""
    if axis == "depth":
        return measurement.kind == "change" and measurement.name == "blocks.last"
    return measurement.hidden or (measurement.name == "logits" and zero_head)


def _line(x: Any, y: Any) -> tuple[float | None, float | None, float | None]:
    """Slope of a least-squares line with its 95 % interval by Student's t."""
    if not np.isfinite(y).all():
        return None, None, None
    across = x - x.mean()
    spread = float(across @ across)
    slope = float(across @ y) / spread
    free = len(x) - 2
    if free < 1:
        return slope, None, None
    left = y - y.mean() - slope * across
    half = float(stdtrit(free, 0.975)) * math.sqrt(float(left @ left) / free / spread)
    return slope, slope - half, slope + half


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
