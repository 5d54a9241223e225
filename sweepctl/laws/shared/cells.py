"""Cells: the runs of one size trained on one number of tokens, which differ in learning rate and batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.observations import Floats, Observations
from sweepctl.laws.shared.levels import levels

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Cell:
    """Rows that belong together."""

    name: str
    """The group and, where that is not enough, its N, D."""
    rows: Indices
    """Their numbers."""


def cells_of(data: Observations, roles: tuple[str, ...], tolerance: float) -> list[Cell]:
    """Rows whose `roles` lie within the tolerance of each other, apart by group where there are groups; in
    rising order of the first role, then of the next."""
    blocks = [(name, rows) for name, rows in data.groups("group").items()] if "group" in data else []
    blocks = blocks or [("", np.arange(len(data)))]
    for role in roles:
        blocks = [
            (name, rows[place == level])
            for name, rows in blocks
            for place in [levels(data[role][rows], tolerance)]
            for level in range(int(place.max(initial=-1)) + 1)
        ]
    if "group" in data and len({name for name, _ in blocks}) == len(blocks):
        return [Cell(name, rows) for name, rows in blocks]
    return [Cell(_name(data, name, roles, rows), rows) for name, rows in blocks]


def center(values: Floats) -> float:
    """Geometric mean; exactly the value where all are equal."""
    if np.ptp(values) == 0:
        return float(values[0])
    return float(np.exp(np.log(values).mean()))


def _name(data: Observations, group: str, roles: tuple[str, ...], rows: Indices) -> str:
    parts = [f"{center(data[role][rows]):.4g}" for role in roles]
    return "/".join([group, *parts] if group else parts) or "all"
