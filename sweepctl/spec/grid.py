"""Grids: any science field as an axis, crossed in full or drawn at random from a seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec.hashing import key

SPACED = ("log2", "log", "linear", "seeds")
CONTINUOUS = ("uniform", "log_uniform")
MOST = 100_000
"""Values of one axis."""
MOST_POINTS = 1_000_000
"""Points of a grid."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Draw points, each axis independently, instead of crossing the axes."""

    count: int
    """How many points."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InvalidValue("count", self.count, "at least 1")


@dataclass(frozen=True, slots=True)
class Grid:
    """Axes by dotted field. An axis is a list of values, or a mapping with one rule:

    `log2: {from, to, step}`   2^from ... 2^to
    `log: {from, to, count}`   evenly spaced in the logarithm
    `linear: {from, to, count}`
    `seeds: n`                 0 ... n - 1
    `uniform: [low, high]`, `log_uniform: [low, high]`   only with `sample`
    """

    axes: dict[str, Any] = field(default_factory=dict)
    """Dotted field -> its axis."""
    sample: Sample | None = None
    """Draws points of the axes; null crosses them."""

    def __post_init__(self) -> None:
        for name, axis in self.axes.items():
            rule = next(iter(axis)) if isinstance(axis, Mapping) and len(axis) == 1 else None
            if rule in CONTINUOUS and self.sample is None:
                raise InvalidValue(
                    f"axes.{name}", axis, "a list or a spaced rule, unless grid.sample.count is given"
                )
            if rule not in CONTINUOUS:
                axis_values(name, axis)

    def settings(self) -> list[dict[str, Any]]:
        """One mapping of field -> value a point of the grid; [{}] for no axes."""
        if self.sample is not None:
            if self.sample.count > MOST_POINTS:
                raise InvalidValue("sample.count", self.sample.count, f"at most {MOST_POINTS}")
            return [
                {name: _draw(axis, name, self.sample.seed, i) for name, axis in self.axes.items()}
                for i in range(self.sample.count)
            ]
        lists = [axis_values(name, axis) for name, axis in self.axes.items()]
        if (points := math.prod(map(len, lists))) > MOST_POINTS:
            raise RequestError(
                f"The axes of the grid cross in {points} points; at most {MOST_POINTS} are planned."
            )
        return [dict(zip(self.axes, combination, strict=True)) for combination in itertools.product(*lists)]

    def merged(self, other: Grid) -> Grid:
        """This grid with the other's axes over its own."""
        return Grid({**self.axes, **other.axes}, other.sample or self.sample)


def dotted(axes: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """Axes by dotted field, also where an override such as `grid.axes.optimizer.lr=` nested them."""
    flat: dict[str, Any] = {}
    for name, axis in axes.items():
        nested = isinstance(axis, Mapping) and not set(axis) & {*SPACED, *CONTINUOUS}
        flat |= dotted(axis, f"{under}{name}.") if nested else {f"{under}{name}": axis}
    return flat


def axis_values(name: str, axis: Any) -> list[Any]:
    """The values of a discrete axis, in the order given.

    Raises:
        RequestError: the axis is empty, repeats itself or is no known rule.
    """
    at = f"axes.{name}"
    if isinstance(axis, Mapping):
        values = _ruled(at, axis)
    elif isinstance(axis, (list, tuple)):
        values = list(axis)
    else:
        raise InvalidValue(at, axis, "a list of values or one of the rules log2, log, linear, seeds")
    if not values:
        raise InvalidValue(at, axis, "a list with at least one value")
    if len({repr(value) for value in values}) < len(values):
        raise InvalidValue(at, axis, "a list without repeated values")
    return values


def _ruled(at: str, axis: Mapping[str, Any]) -> list[Any]:
    options: Any
    rule, options = next(iter(axis.items())) if len(axis) == 1 else ("", {})
    if rule not in SPACED:
        raise InvalidValue(
            at, dict(axis), "one of the rules log2, log, linear, seeds, uniform and log_uniform"
        )
    try:
        if rule == "seeds":
            return list(range(_count(at, axis, options)))
        low, high = _finite(options["from"]), _finite(options["to"])
        if rule == "log2":
            step = _finite(options.get("step", 1))
            if (high - low) / step > MOST:
                raise InvalidValue(at, dict(axis), f"at most {MOST} values")
            return [2.0 ** (low + i * step) for i in range(math.floor((high - low) / step + 1e-9) + 1)]
        count = _count(at, axis, options["count"])
        shares = [i / (count - 1) if count > 1 else 0.0 for i in range(count)]
        if rule == "log":
            return [_finite(low * (high / low) ** share) for share in shares]
        return [low + (high - low) * share for share in shares]
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        form = {"log2": "{from, to, step}", "seeds": "a number"}.get(rule, "{from, to, count}")
        raise InvalidValue(at, dict(axis), f"{rule}: {form}") from None


def _count(at: str, axis: Mapping[str, Any], number: Any) -> int:
    if isinstance(number, bool) or number != int(number):
        raise ValueError
    if number > MOST:
        raise InvalidValue(at, dict(axis), f"at most {MOST} values")
    return int(number)


def _finite(number: Any) -> float:
    if isinstance(number, bool) or not math.isfinite(value := float(number)):
        raise ValueError
    return value


def _draw(axis: Any, name: str, seed: int, index: int) -> Any:
    share = key(seed, "grid", name, index) / 2**64
    rule = next(iter(axis)) if isinstance(axis, Mapping) else None
    if rule in CONTINUOUS:
        try:
            low, high = (_finite(bound) for bound in axis[rule])
            if rule == "log_uniform":
                return float(low * (high / low) ** share)
            return low + (high - low) * share
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            raise RequestError(f"axes.{name}: {rule} needs [low, high], two numbers above 0.") from None
    values = axis_values(name, axis)
    return values[int(share * len(values))]
