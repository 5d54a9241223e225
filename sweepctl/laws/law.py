"""What every law takes and gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEVEL = 0.95
"""Coverage of every interval."""

MOST_REPLICATES = 100_000

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
    "group": "what is fitted apart or compared: a model, an architecture, a recipe",
    "role": "which rows are fitted and which are only predicted: fit or target",
    "parent": "the run that a run was cut from, whose learning rates it had before its first row",
}
"""The roles that a column of names may have."""

MAY_BE_ZERO = ("accuracy", "error", "step")


class CannotFit(ValueError):
    """The data do not carry this law; the message is one sentence that says what is missing."""


@dataclass(frozen=True)
class Observations:
    """A table as laws see it: columns of numbers by role (NUMBERS), columns of names by role (LABELS), each
    [rows].

    `rows` names each row; `excluded` are the rows that were left out before, with the reason; `accounting`
    says how N, D, C and the loss were counted. A row may lack the roles in `partial` (NaN), or have 0 there.

    Raises:
        CannotFit: a column is of another length, or holds what its role does not allow.
    """

    columns: Mapping[str, Floats]
    rows: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    excluded: tuple[tuple[str, str], ...] = ()
    accounting: Mapping[str, str] = field(default_factory=dict)
    partial: tuple[str, ...] = ()

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
        if role not in self.columns:
            raise CannotFit(
                f"A column of {NUMBERS.get(role, role)} is missing: name it with --{_flag(role)}."
            )
        return self.columns[role]

    def label(self, role: str) -> tuple[str, ...]:
        """A column of names [rows].

        Raises:
            CannotFit: there is none.
        """
        if role not in self.labels:
            raise CannotFit(f"A column that names {LABELS[role]} is missing: name it with --{_flag(role)}.")
        return self.labels[role]

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
        gone = tuple((self.rows[i], reason) for i in np.flatnonzero(~mask))
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


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the 95 % interval of the law there; both ends the value where nothing was resampled."""

    value: float
    interval: tuple[float, float]


UNKNOWN = Estimate(float("nan"), (float("nan"), float("nan")))
"""What the rows do not identify."""


@dataclass(frozen=True, slots=True)
class Prediction(Estimate):
    """A loss, also with the interval of a new run there, which adds the scatter of runs around the law."""

    run_interval: tuple[float, float]


@dataclass
class Fit:
    """A law fitted to observations: a claim with its intervals, its protocol and what it stands on.

    `objective` is the minimized quantity in the protocol's own units. `samples` are the parameters of every
    replicate behind the intervals, `residuals` those of the rows used; both are what later predictions draw
    from. `derived` follows from the parameters; `details` are tables of the law (minima, points of a hull).
    """

    law: str
    protocol: dict[str, Any]
    accounting: dict[str, str]
    params: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    objective: float
    rows_used: list[str]
    rows_excluded: list[dict[str, str]]
    starts: dict[str, int]
    flags: list[str] = field(default_factory=list)
    derived: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    residuals: list[float] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    other_accountings: dict[str, Any] = field(default_factory=dict)

    def arrays(self) -> dict[str, Floats]:
        """The samples as arrays: name -> [replicates]; of a law without replicates, its parameters: [1]."""
        if not self.samples:
            return {name: np.array([value]) for name, value in self.params.items()}
        return {name: np.asarray(values, dtype=np.float64) for name, values in self.samples.items()}


Target = Mapping[str, float]
"""What a prediction is asked for: roles to values, such as {"flops": 1e21}."""


@dataclass(frozen=True)
class Law:
    """One law: what it is, what it needs, how it is fitted and what it predicts.

    `needs` are roles that must be there, `takes` roles that it uses where they are; ("flops",) is filled with
    6 N D where it is not; a row may lack the roles in `partial`. `targets` are the roles that a prediction
    may be asked for together. `fit` raises CannotFit; `predict` gives estimates by name: n, d,
    tokens_per_parameter, loss, lr, batch, accuracy.
    `annealed`: only losses at the end of a decay mean what the law is about. `reduced`: at equal N and D only
    the best over learning rate and batch, averaged over seeds. `table`: which table of a sweep it reads.
    `held_out`: whether --hold-out predicts every row, the best row of its budget, or does not apply.
    """

    name: str
    formula: str
    source: str
    options: type[Resampling]
    needs: tuple[str, ...]
    fit: Callable[[Observations, Any], Fit]
    predict: Callable[[Fit, Target], Mapping[str, Estimate]]
    targets: tuple[tuple[str, ...], ...]
    takes: tuple[str, ...] = ()
    annealed: bool = True
    reduced: bool = True
    table: Literal["runs", "curves"] = "runs"
    held_out: Literal["row", "best", "none"] = "row"
    partial: tuple[str, ...] = ()


def claim(
    name: str,
    data: Observations,
    options: Any,
    params: Mapping[str, float],
    objective: float,
    samples: Mapping[str, Any],
    resampled: str,
    starts: tuple[int, int] = (1, 1),
    derived: Mapping[str, float] | None = None,
    **more: Any,
) -> Fit:
    """A fit of the rows in `data`, with a percentile interval for everything in `samples` (name ->
    [replicates]).

    `resampled` names what the replicates are: "rows", "runs", "noisy copies". `starts` are tried and
    agreeing.
    """
    kept = {key: np.asarray(values, dtype=np.float64) for key, values in samples.items()}
    return Fit(
        law=name,
        protocol={**dataclasses.asdict(options), "intervals": f"95 % percentiles over {resampled}"},
        accounting=dict(data.accounting),
        params={key: float(value) for key, value in params.items()},
        intervals={key: percentile_interval(values) for key, values in kept.items() if values.size},
        objective=float(objective),
        rows_used=list(data.rows),
        rows_excluded=[{"row": row, "reason": reason} for row, reason in data.excluded],
        starts={"tried": starts[0], "agreeing": starts[1]},
        derived={key: float(value) for key, value in (derived or {}).items()},
        samples={key: values.tolist() for key, values in kept.items()},
        **more,
    )


def option(default: Any, text: str) -> Any:
    """A field of a law's options, with what `fit --list` says of it."""
    return field(default=default, metadata={"told": text})


@dataclass(frozen=True, slots=True)
class Resampling:
    """What every law's options have: how many replicates stand behind its intervals.

    Raises:
        CannotFit: a number below 0.
    """

    replicates: int = option(1000, "refits behind the intervals; 0 gives none")
    seed: int = option(0, "of the replicates")

    def __post_init__(self) -> None:
        for name, most in (("replicates", MOST_REPLICATES), ("seed", 2**32)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise CannotFit(f"{name} must be a whole number from 0 to {most:,}; it is {value:.6g}.")


def percentile_interval(samples: Any) -> tuple[float, float]:
    """The central LEVEL of the samples, by percentiles; samples that are not finite do not count."""
    values = np.asarray(samples, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return float("nan"), float("nan")
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def short(value: float) -> str:
    """1e18, 3.65e19: a number in a flag."""
    return f"{value:.3g}".replace("e+", "e")


def misfit(residuals: Floats) -> dict[str, float]:
    """The root mean square and the largest of log residuals [rows], as derived figures."""
    return {
        "rms_log_residual": float(np.sqrt(np.mean(residuals**2))),
        "max_log_residual": float(np.abs(residuals).max()),
    }


def estimate(value: Any, samples: Any) -> Estimate:
    """A value with the interval of its samples."""
    return Estimate(float(value), percentile_interval(samples))
