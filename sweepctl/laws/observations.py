"""What a law is fitted to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

NUMBERS = {
    "n": "parameters N",
    "d": "tokens D",
    "flops": "training FLOPs C",
    "loss": "loss, nats a token",
    "lr": "peak learning rate",
    "batch": "batch, tokens",
    "steps": "updates",
    "step": "the update at which a point of a curve was measured",
    "task_loss": "loss of the right answers, bits a byte or nats",
    "accuracy": "accuracy on the task, 0 to 1",
    "error": "error on the task, 0 to 1",
}
"""The roles that a column of numbers may have, and what it holds."""

LABELS = {
    "run": "the training run that a row belongs to",
    "trunk": "the trunk that a row's run was cut from: rows of one trunk are off the law together",
    "group": "what is fitted apart or compared: a model, an architecture, a recipe",
    "role": "which rows are fitted and which are only predicted: fit or target",
    "parent": "the run that a run was cut from, whose learning rates it had before its first row",
}
"""The roles that a column of names may have."""

MAY_BE_ZERO = ("accuracy", "error", "step")


class CannotFit(ValueError):
    """The data do not carry this law; the message is one sentence that says what is missing."""


class Excluded(NamedTuple):
    """A row that was left out."""

    row: str
    """Its name."""
    reason: str
    """Why it was."""


@dataclass(frozen=True)
class Observations:
    """A table as laws see it: columns of numbers by role (NUMBERS), columns of names by role (LABELS), each
    [rows].

    Raises:
        CannotFit: a column is of another length, or holds what its role does not allow.
    """

    columns: Mapping[str, Floats]
    """Role -> numbers [rows]."""
    rows: tuple[str, ...]
    """The name of each row."""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Role -> names [rows]."""
    excluded: tuple[Excluded, ...] = ()
    """Rows that were left out before."""
    accounting: Mapping[str, str] = field(default_factory=dict)
    """How N, D, C and the loss were counted."""
    partial: tuple[str, ...] = ()
    """Roles that a row may lack (NaN), or have as 0."""

    def __post_init__(self) -> None:
        arrays = {role: np.asarray(values, dtype=np.float64) for role, values in self.columns.items()}
        object.__setattr__(self, "columns", arrays)
        for role, values in arrays.items():
            if values.shape != (len(self.rows),):
                raise CannotFit(f"{role} has {values.size} values for {len(self.rows)} rows.")
            zero = role in MAY_BE_ZERO or role in self.partial
            good = np.isfinite(values) & (values >= (0.0 if zero else np.nextafter(0, 1)))
            if role in self.partial:
                good |= np.isnan(values)
            if not good.all():
                bad = int(np.argmin(good))
                least = "at least 0" if zero else "above 0"
                raise CannotFit(
                    f"{role} must be a finite number {least} in every row; in row {self.rows[bad]} it is "
                    f"{values[bad]:g}."
                )

    @classmethod
    def of(
        cls, rows: Sequence[str] | None = None, partial: tuple[str, ...] = (), **columns: Any
    ) -> Observations:
        """Observations from arrays, by role: numbers and names alike; rows are numbered where not named."""
        numbers = {k: np.asarray(v, dtype=np.float64) for k, v in columns.items() if k in NUMBERS}
        labels = {k: tuple(str(x) for x in v) for k, v in columns.items() if k in LABELS}
        count = max([len(v) for v in numbers.values()] + [len(v) for v in labels.values()], default=0)
        names = tuple(rows) if rows is not None else tuple(map(str, range(count)))
        return cls(numbers, names, labels, partial=partial)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, role: str) -> bool:
        return role in self.columns or role in self.labels

    def __getitem__(self, role: str) -> Floats:
        """A column of numbers [rows].

        Raises:
            CannotFit: there is none.
        """
        self.require(role)
        return self.columns[role]

    def label(self, role: str) -> tuple[str, ...]:
        """A column of names [rows].

        Raises:
            CannotFit: there is none.
        """
        self.require(role)
        return self.labels[role]

    def require(self, *roles: str) -> None:
        """Refuse a table that lacks a column.

        Raises:
            CannotFit: there is none for one of the roles.
        """
        for role in roles:
            if role not in (self.labels if role in LABELS else self.columns):
                holds = f"that names {LABELS[role]}" if role in LABELS else f"of {NUMBERS.get(role, role)}"
                raise CannotFit(f"A column {holds} is missing: name it with --{_flag(role)}.")

    @property
    def n(self) -> Floats:
        return self["n"]

    @property
    def d(self) -> Floats:
        return self["d"]

    @property
    def flops(self) -> Floats:
        return self["flops"]

    @property
    def loss(self) -> Floats:
        return self["loss"]

    def keep(self, mask: Any, reason: str) -> Observations:
        """The rows where the mask [rows] holds; the others are left out, with the reason."""
        mask = np.asarray(mask, dtype=bool)
        gone = tuple(Excluded(self.rows[i], reason) for i in np.flatnonzero(~mask))
        return dataclasses.replace(self.take(np.flatnonzero(mask)), excluded=(*self.excluded, *gone))

    def take(self, indices: Any) -> Observations:
        """These rows, in this order; the others are gone without a word."""
        order = [int(i) for i in indices]
        return dataclasses.replace(
            self,
            columns={role: values[order] for role, values in self.columns.items()},
            labels={role: tuple(values[i] for i in order) for role, values in self.labels.items()},
            rows=tuple(self.rows[i] for i in order),
        )

    def shared_trunks(self) -> tuple[str, ...]:
        """The trunk of each row, of rows of one run that run; none where no two rows have one in common."""
        for role in ("trunk", "run"):
            names = self.labels.get(role, ())
            if len(set(names)) < len(names):
                return names
        return ()

    def numbers(self, role: str) -> NDArray[np.int64]:
        """The number of each row's name from 0 on, in order of first appearance: [rows]."""
        numbers = np.empty(len(self), dtype=np.int64)
        for number, rows in enumerate(self.groups(role).values()):
            numbers[rows] = number
        return numbers

    def groups(self, role: str) -> dict[str, NDArray[np.int64]]:
        """Name -> the rows that bear it, in order of first appearance."""
        members: dict[str, list[int]] = {}
        for i, name in enumerate(self.label(role)):
            members.setdefault(name, []).append(i)
        return {name: np.array(rows) for name, rows in members.items()}


def _flag(role: str) -> str:
    return role.replace("_", "-")
