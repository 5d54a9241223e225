"""The settings of a point: what axes, scaling rules and its budgets make of its plan's base."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.schedules.schedule import Schedule
from sweepctl.spec.science import Point, with_field

KINDS = tuple(f"{base.at}.{base.by}" for base in (Schedule, Optimizer))
"""Fields that say which fields their group has."""
SIZES = ("shape.", "model.", "batch.context")
"""Fields that change what is counted of a model."""
SCHEDULE, WARMUP = f"{Schedule.at}.", f"{Schedule.at}.warmup"
"""Fields of the schedule; of its warmup, which a point has in steps."""


class PointSettings(dict[str, Any]):
    """Science fields by dotted name, those of the schedule under `schedule.`, with their values."""

    __slots__ = ()

    def in_order(self) -> list[tuple[str, Any]]:
        """As they are to be set: kinds first, since the other fields of their group are of them."""
        return sorted(self.items(), key=lambda setting: setting[0] not in KINDS)

    def point(self, base: Point) -> Point:
        """The base with its own fields set."""
        for path, value in self.in_order():
            if not path.startswith(SCHEDULE):
                base = with_field(base, path, value)
        return base

    def schedule(self, base: Schedule) -> Schedule:
        """The base with its own fields set, but for its warmup."""
        for path, value in self.in_order():
            if path.startswith(SCHEDULE) and not path.startswith(WARMUP):
                base = with_schedule_field(base, path, value)
        return base

    @property
    def change_counts(self) -> bool:
        """Whether parameters and FLOPs are others than the rung's."""
        return any(path.startswith(SIZES) for path in self)

    def without(self, paths: Container[str]) -> dict[str, Any]:
        """Those of other fields."""
        return {path: value for path, value in self.items() if path not in paths}


def with_schedule_field(schedule: Schedule, path: str, value: Any) -> Schedule:
    """A schedule with one field set, by its path in a study.

    Raises:
        RequestError: its kind has no such field, or it cannot have this value.
    """
    return with_field(schedule, path.removeprefix(SCHEDULE), value, under=SCHEDULE)
