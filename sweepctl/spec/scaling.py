"""Scaling rules: hyperparameters as formulas of a rung's size, such as a batch that grows with its tokens."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, get_args

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec.accounting import Accounting, Counts, FlopCount, ParameterCount
from sweepctl.spec.build import field_type
from sweepctl.spec.expression import evaluate
from sweepctl.spec.schedules.schedule import Schedule
from sweepctl.spec.science import Point

FIXED = ("shape", "model", "batch.context", "corpus", "cycles", "numerics", "warmup_steps")
"""What a rule cannot set: it is the size that rules go by, or follows from other fields."""
SYMBOLS = ("N", "D", "C", "d", "L", "context", "B", "base")


@dataclass(frozen=True, slots=True)
class Scaling:
    """A rule for every rung of a ladder: science field -> formula.

    Formulas know N (the rung's parameters), D = `tokens_per_parameter` x N tokens, C (the FLOPs of training
    on them), d (width), L (layers), context, B (the batch in tokens, after its own rule), base (the field's
    own value in the study) and the `constants`; a grid changes none of these.
    """

    tokens_per_parameter: float | None = None
    """D over N; null for rules without D and C."""
    parameters: ParameterCount | None = None
    """How N is counted; null as the study does."""
    flops: FlopCount | None = None
    """How C is counted; null as the study does."""
    constants: dict[str, float] = field(default_factory=dict)
    """Names of numbers in formulas."""
    fields: dict[str, str | float] = field(default_factory=dict)
    """Field -> its formula. Whole numbers are rounded, `batch.tokens` to whole sequences; a formula of base
    leaves a null field null, and a key that only other optimizers have is left out."""

    def __post_init__(self) -> None:
        ratio = self.tokens_per_parameter
        if ratio is not None and ratio <= 0:
            raise InvalidValue("tokens_per_parameter", ratio, "above 0, or null for a rule without D and C")
        for name in self.constants:
            if not name.isidentifier() or name in SYMBOLS:
                raise InvalidValue("constants", name, f"a name other than {', '.join(SYMBOLS)}")
        for path in self.fields:
            if path.startswith(FIXED):
                raise InvalidValue("fields", path, "a field that does not change the model or its data")

    def without(self, paths: set[str]) -> Scaling:
        """The rule for the other fields."""
        kept = {path: formula for path, formula in self.fields.items() if path not in paths}
        return dataclasses.replace(self, fields=kept)

    def settings(
        self, point: Point, schedule: Schedule, counts: Counts, accounting: Accounting
    ) -> dict[str, Any]:
        """The values of the fields for the point's shape, the batch first.

        Raises:
            RequestError: a formula has no value, or there is no such field.
        """
        names = self._names(point, counts, accounting)
        values: dict[str, Any] = {}
        for path in sorted(self.fields, key=lambda path: path != "batch.tokens"):
            if is_of_another_kind(path, point, schedule):
                continue
            base, kind = _field(point, schedule, path)
            formula = str(self.fields[path])
            if kind is not None and base is None and re.search(r"\bbase\b", formula):
                continue
            try:
                value = evaluate(formula, names | ({"base": base} if type(base) in (int, float) else {}))
            except RequestError as error:
                raise RequestError(f"scaling.fields.{path}, rung {point.shape.name}: {error}") from None
            if path == "batch.tokens":
                if value <= 0:
                    raise InvalidValue(f"scaling.fields.{path}", formula, f"above 0; it gives {value:g}")
                value = names["B"] = max(1, round(value / point.batch.context)) * point.batch.context
            values[path] = round(value) if _whole(kind) else float(value)
        return values

    def _names(self, point: Point, counts: Counts, accounting: Accounting) -> dict[str, float]:
        counted = Accounting(self.parameters or accounting.parameters, self.flops or accounting.flops)
        n = counts.parameters(counted.parameters)
        names: dict[str, float] = {
            **self.constants,
            "N": n,
            "d": point.shape.d_model,
            "L": point.shape.n_layers,
            "context": point.batch.context,
            "B": point.batch.tokens,
        }
        if self.tokens_per_parameter is not None:
            names["D"] = self.tokens_per_parameter * n
            names["C"] = names["D"] * counts.flops_per_token(counted)
        return names


def is_of_another_kind(path: str, point: Point, schedule: Schedule) -> bool:
    """Whether a field is one that the point's optimizer or schedule does not have and others of its kind
    have."""
    group, _, key = path.partition(".")
    kinds = {"optimizer": point.optimizer, "schedule": schedule}
    return group in kinds and key in kinds[group].foreign_keys()


def _field(point: Point, schedule: Schedule, path: str) -> tuple[Any, Any]:
    """A field's value and declared type; of one that is not there nothing, which setting it will say."""
    target: Any = schedule if path.startswith("schedule.") else point
    kind: Any = None
    for name in path.removeprefix("schedule.").split("."):
        kind = field_type(type(target), name) if dataclasses.is_dataclass(target) else None
        target = getattr(target, name) if kind is not None else None
    return target, kind


def _whole(kind: Any) -> bool:
    return kind is int or (int in get_args(kind) and float not in get_args(kind))
