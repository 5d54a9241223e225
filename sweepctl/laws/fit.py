"""What fitting a law gives, and how it is written down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from sweepctl.laws.observations import NUMBERS, Excluded, Floats, Observations

LEVEL = 0.95
"""Coverage of every interval."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value of a law."""

    value: float
    """The value."""
    interval: Interval
    """The 95 % interval of the law there; both ends the value where nothing was resampled."""

    def intervals(self, name: str) -> dict[str, list[float]]:
        """Name -> interval, as it is written down."""
        return {name: list(self.interval)}


NO_INTERVAL: Interval = (float("nan"), float("nan"))
"""Of a value that has none."""
UNKNOWN = Estimate(float("nan"), NO_INTERVAL)
"""What the rows do not identify."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the interval of a run is made of: half-widths, as shares of the value, whose squares add up."""

    parameters: float
    """How well the rows determine the law."""
    run: float
    """What a run has of its own."""
    trunk: float
    """What all runs of its trunk have in common."""
    beyond: float
    """The law's own misfit there, which the rows show the less the farther they are."""
    carried: float = 0.0
    """What settings may cost that were chosen at another size."""

    @property
    def half(self) -> float:
        """Half the interval, in logarithms."""
        parts = (self.parameters, self.run, self.trunk, self.beyond, self.carried)
        return float(np.sqrt(sum(part**2 for part in parts)))

    def widened(self, half: float) -> Parts:
        """The same of a wider interval: replicates of the parameters spread more than these say."""
        more = max(0.0, half**2 - self.half**2)
        return replace(self, parameters=float(np.sqrt(self.parameters**2 + more)))


@dataclass(frozen=True, slots=True)
class Prediction(Estimate):
    """A loss, or another value of a run that has not been trained."""

    run_interval: Interval
    """The interval of a new run there: where one lies that is yet to be made."""
    parts: Parts | None = None
    """What that is made of; None of an early version, or where nothing says."""

    def carrying(self, share: float) -> Prediction:
        """The same of a run with settings that were chosen elsewhere, which may cost a share of its value."""
        if not share:
            return self
        low, high = (
            float(self.value * np.exp(sign * np.hypot(np.log(end / self.value), share)))
            for sign, end in zip((-1, 1), self.run_interval, strict=True)
        )
        parts = None if self.parts is None else replace(self.parts, carried=share)
        return replace(self, run_interval=(low, high), parts=parts)

    def intervals(self, name: str) -> dict[str, list[float]]:
        """The same, with that of a run."""
        return {name: list(self.interval), f"{name}_of_a_run": list(self.run_interval)}


class Target(Mapping[str, float]):
    """Where a prediction is asked for: a value for each role that it names, such as flops of 1e21.

    Raises:
        ValueError: a role is none.
    """

    def __init__(self, values: Mapping[str, float]) -> None:
        unknown = set(values) - set(NUMBERS) - {"tokens_per_parameter"}
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))}: no role that a target may name")
        self._values = dict(values)

    def __getitem__(self, role: str) -> float:
        return self._values[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class Answer:
    """What a fit says at one place."""

    at: Mapping[str, float | str]
    """A target; of a loss curve the run, and the step of its end."""
    estimates: Mapping[str, Estimate]
    """Name -> estimate."""
    measured: float | None = None
    """The loss that was measured there, if one was."""

    def record(self) -> dict[str, Any]:
        """As it is written down."""
        intervals: dict[str, list[float]] = {}
        for name, estimate in self.estimates.items():
            if np.isfinite(estimate.interval).any() or not np.isfinite(estimate.value):
                intervals |= estimate.intervals(name)
        values = {name: estimate.value for name, estimate in self.estimates.items()}
        record: dict[str, Any] = {"at": dict(self.at), **values, "intervals": intervals}
        parts = {name: asdict(p) for name, p in self.parts.items()}
        record |= {"parts": parts} if parts else {}
        if self.measured is not None:
            record |= {"measured": self.measured, "error": self.error}
        return record

    @property
    def error(self) -> float | None:
        """Predicted over measured loss, minus one."""
        return None if self.measured is None else self.estimates["loss"].value / self.measured - 1

    @property
    def parts(self) -> dict[str, Parts]:
        """Name -> what the interval of a run is made of, where that is known."""
        return {
            name: estimate.parts
            for name, estimate in self.estimates.items()
            if isinstance(estimate, Prediction) and estimate.parts is not None
        }

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Answer:
        """The inverse of `record`."""
        intervals = {name: _interval(ends) for name, ends in record["intervals"].items()}
        parts = {name: Parts(**shares) for name, shares in record.get("parts", {}).items()}
        estimates: dict[str, Estimate] = {}
        for name, value in record.items():
            if name in ("at", "intervals", "parts", "measured", "error"):
                continue
            number = _number(value)
            law, run = intervals.get(name, NO_INTERVAL), intervals.get(f"{name}_of_a_run")
            estimates[name] = (
                Estimate(number, law) if run is None else Prediction(number, law, run, parts.get(name))
            )
        return cls(record["at"], estimates, record.get("measured"))


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """A row that was held out: what the law of the smaller ones said of it."""

    role: str
    """The role whose highest levels were held out."""
    fitted_up_to: float
    """The largest value of that role among the rows that were fitted."""
    row: str
    """Its name."""
    at: Mapping[str, float]
    """Where it was predicted."""
    predicted: float
    """The loss by the law."""
    measured: float
    """The loss."""
    interval: Interval = NO_INTERVAL
    """That of a run there, by the law of the smaller ones."""
    expected: float = 0.0
    """Standard deviation of a log error that this interval stands for; 0 where there is none."""

    @property
    def error(self) -> float:
        """Predicted over measured, minus one."""
        return self.predicted / self.measured - 1

    @property
    def log_error(self) -> float:
        """Its logarithm."""
        return float(np.log(self.predicted / self.measured))

    @property
    def inside(self) -> bool | None:
        """Whether the interval held it; None where there is none."""
        low, high = self.interval
        return low <= self.measured <= high if np.isfinite(high - low) else None

    def record(self) -> dict[str, Any]:
        """As it is written down."""
        return {
            "role": self.role, "fitted_up_to": self.fitted_up_to, "row": self.row, "at": dict(self.at),
            "predicted": self.predicted, "measured": self.measured, "error": self.error,
            "interval": list(self.interval), "expected": self.expected, "inside": self.inside,
        }  # fmt: skip

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> HeldOutRow:
        """The inverse of `record`, also of one without an interval."""
        kept = {name: value for name, value in record.items() if name not in ("error", "inside")}
        return cls(**kept | {"interval": _interval(record.get("interval", NO_INTERVAL))})


@dataclass(frozen=True, slots=True)
class UnderAccounting:
    """The same law fitted under another way to count N and C, or why it could not be."""

    params: Mapping[str, float] = field(default_factory=dict)
    """Its parameters."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Their intervals."""
    derived: Mapping[str, float] = field(default_factory=dict)
    """What follows from them."""
    predictions: Sequence[Answer] = ()
    """At the same targets."""
    refused: str | None = None
    """Why there is no such fit."""

    def record(self) -> dict[str, Any]:
        """As it is written down."""
        if self.refused is not None:
            return {"refused": self.refused}
        return {
            "params": dict(self.params), "intervals": {k: list(v) for k, v in self.intervals.items()},
            "derived": dict(self.derived), "predictions": [answer.record() for answer in self.predictions],
        }  # fmt: skip

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> UnderAccounting:
        """The inverse of `record`."""
        if "refused" in record:
            return cls(refused=record["refused"])
        answers = [Answer.read(answer) for answer in record["predictions"]]
        intervals = {name: _interval(ends) for name, ends in record["intervals"].items()}
        return cls(_numbers(record["params"]), intervals, _numbers(record["derived"]), answers)


class Starts(NamedTuple):
    """Where a search began."""

    tried: int
    """How many starts there were."""
    agreeing: int
    """How many of them end at the best minimum."""


@dataclass
class Fit:
    """A law fitted to observations: a claim with its intervals, its protocol and what it stands on."""

    law: str
    """Its name."""
    protocol: dict[str, Any]
    """Every choice that was made: the law's options, how intervals came about, which rows were asked for."""
    accounting: dict[str, str]
    """How N, D, C and the loss were counted."""
    params: dict[str, float]
    """Parameter -> value."""
    intervals: dict[str, Interval]
    """Parameter, or what follows from parameters -> 95 % interval."""
    objective: float
    """The minimized quantity in the protocol's own units."""
    rows_used: list[str]
    """The rows that it stands on."""
    rows_excluded: list[Excluded]
    """The rows that were left out."""
    starts: Starts
    """Of its search."""
    flags: list[str] = field(default_factory=list)
    """What a reader must know of it: not_identified:alpha, edge_minimum:1e18, ..."""
    derived: dict[str, float] = field(default_factory=dict)
    """What follows from the parameters."""
    details: dict[str, Any] = field(default_factory=dict)
    """Tables of the law, which pictures are drawn from: minima, points of a hull."""
    samples: dict[str, list[float]] = field(default_factory=dict)
    """The parameters of every replicate behind the intervals; later predictions draw from them."""
    residuals: list[float] = field(default_factory=list)
    """Of the rows used; later predictions draw from them too."""
    predictions: list[Answer] = field(default_factory=list)
    """What was asked of it."""
    held_out: list[HeldOutRow] = field(default_factory=list)
    """What was held out and predicted, as it was asked for."""
    backtests: list[HeldOutRow] = field(default_factory=list)
    """Its own record: each of the larger sizes, predicted from those below it."""
    other_accountings: dict[str, UnderAccounting] = field(default_factory=dict)
    """PARAMETERS/FLOPS -> the law under that accounting."""

    def record_of_backtests(self) -> tuple[int, int]:
        """How many of its backtests lay inside their interval, and how many have one."""
        judged = [row.inside for row in self.backtests if row.inside is not None]
        return sum(judged), len(judged)

    def arrays(self) -> dict[str, Floats]:
        """The samples as arrays: name -> [replicates]; of a law without replicates, its parameters: [1]."""
        if not self.samples:
            return {name: np.array([value]) for name, value in self.params.items()}
        return {name: np.asarray(values, dtype=np.float64) for name, values in self.samples.items()}

    def record(self) -> dict[str, Any]:
        """As it is written down."""
        return {
            **vars(self),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "rows_excluded": [row._asdict() for row in self.rows_excluded],
            "starts": self.starts._asdict(),
            "predictions": [answer.record() for answer in self.predictions],
            "held_out": [row.record() for row in self.held_out],
            "backtests": [row.record() for row in self.backtests],
            "other_accountings": {name: under.record() for name, under in self.other_accountings.items()},
        }

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Fit:
        """The inverse of `record`, also of one by an early version, which holds less.

        Raises:
            KeyError, TypeError: it is not the record of a fit.
        """
        accountings = record.get("other_accountings", {})
        return cls(**{
            **record,
            "params": _numbers(record["params"]),
            "derived": _numbers(record.get("derived", {})),
            "intervals": {name: _interval(ends) for name, ends in record["intervals"].items()},
            "rows_excluded": [Excluded(**row) for row in record["rows_excluded"]],
            "starts": Starts(**record["starts"]),
            "predictions": [Answer.read(answer) for answer in record.get("predictions", [])],
            "held_out": [HeldOutRow.read(row) for row in record.get("held_out", [])],
            "backtests": [HeldOutRow.read(row) for row in record.get("backtests", [])],
            "other_accountings": {name: UnderAccounting.read(r) for name, r in accountings.items()},
        })  # fmt: skip


def _number(value: Any) -> float:
    """JSON has no word for NaN: null is one."""
    return float("nan") if value is None else float(value)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: _number(value) for name, value in values.items()}


def _interval(ends: Sequence[Any]) -> Interval:
    low, high = ends
    return _number(low), _number(high)


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
        protocol={**asdict(options), "intervals": f"95 % percentiles over {resampled}"},
        accounting=dict(data.accounting),
        params={key: float(value) for key, value in params.items()},
        intervals={key: percentile_interval(values) for key, values in kept.items() if values.size},
        objective=float(objective),
        rows_used=list(data.rows),
        rows_excluded=list(data.excluded),
        starts=Starts(*starts),
        derived={key: float(value) for key, value in (derived or {}).items()},
        samples={key: values.tolist() for key, values in kept.items()},
        **more,
    )


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


def scattered(value: Any, draws: Floats, noisy: Floats) -> Prediction:
    """A prediction with the intervals of its draws and, for a new run, of its draws with scatter."""
    law, run = percentile_interval(draws), percentile_interval(noisy)
    return Prediction(float(value), law, (min(law[0], run[0]), max(law[1], run[1])))
