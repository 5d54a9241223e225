"""The lines: which there are, who runs beside whom, and how the time is shared out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One module of this package, run in processes of its own."""

    name: str
    """Of the module."""
    number: int
    """What it belongs to; 0 prepares for the others."""
    group: int
    """Lines of a group run beside each other, groups one after another, the most important first."""
    weight: float
    """Of its group's time: the largest of a group counts."""
    processes: int = 1
    """How many share its cases out."""


LINES = (
    Line("preparations", 0, 0, 60),
    Line("forks", 1, 1, 150, 4),
    Line("losses", 3, 1, 60),
    Line("combinations", 4, 1, 150, 3),
    Line("warming", 5, 1, 120, 2),
    Line("speed", 5, 2, 130),
    Line("sharing", 6, 3, 80),
    Line("faults", 2, 4, 90),
    Line("determinism", 1, 5, 20),
    Line("memory", 7, 6, 30),
)


def groups(numbers: Iterable[int]) -> list[list[Line]]:
    """The lines of these numbers, and what prepares for them, by group."""
    chosen = [line for line in LINES if line.number == 0 or line.number in set(numbers)]
    return [[line for line in chosen if line.group == group] for group in sorted({x.group for x in chosen})]


def weight(group: list[Line]) -> float:
    """Of a group's time against the others'."""
    return max(line.weight for line in group)
