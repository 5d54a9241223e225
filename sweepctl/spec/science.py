"""What a job is, apart from how it is run: the fully resolved fields that its id is a hash of.

A trunk's science has no length, so that a longer budget continues the same trunk. A branch's science is
its trunk's id, its cut and its decay. A field that is added later is left out of the hash at the neutral
value frozen in `NEUTRAL`, so that ids given before it existed stay what they are, whatever the field's
default becomes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

from sweepctl.errors import InvalidValue, RequestError, unknown_name
from sweepctl.spec.build import build, convert, field_type, plain
from sweepctl.spec.hashing import canonical, digest
from sweepctl.spec.kinds import Kinds
from sweepctl.spec.learning_rate import Cycles, DecayShape, Drop, LearningRateCurve
from sweepctl.spec.model import Architecture, Shape
from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.parametrization import Parametrization

NUMERICS = 1
"""Raised when the built-in trainer's stored reference loss moves: old results then keep their old ids."""

NEUTRAL: dict[str, Any] = {
    "model.biases": False,
    "model.positions": "rope",
    "model.queries_per_kv": 1,
    "model.qk_norm": False,
    "model.mixers": ["softmax"],
    "model.linear_gate": "full",
    "model.linear_chunk": 64,
    "model.experts": None,
    "parametrization.init": "normal",
    "parametrization.residual_multiplier": 1.0,
    "parametrization.sp_head": False,
    "optimizer.momentum": 0.95,
    "optimizer.nesterov": True,
    "optimizer.muon_scale": "jordan",
    "optimizer.muon_steps": 5,
    "optimizer.adamw_lr": None,
    "cycles": None,
    "anneal.drops": [],
}
"""Dotted science field -> the value at which it is left out of the hash. Entries are never changed."""

RECORDED_AS = {"anneal.end_lr_share": "floor", "cycles.end_lr_share": "floor"}
"""Dotted science field -> the name that records and hashes have for it. Entries are never changed."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """What an update and a sequence are."""

    tokens: int
    """Of an update."""
    context: int
    """Tokens of a sequence."""

    def __post_init__(self) -> None:
        if self.context < 1:
            raise InvalidValue("context", self.context, "at least 1")
        if self.tokens < 1 or self.tokens % self.context:
            raise InvalidValue("tokens", self.tokens, f"a multiple of context={self.context}")

    @property
    def rows(self) -> int:
        return self.tokens // self.context


@dataclass(frozen=True, slots=True)
class Corpus:
    """The data by content, never where it is."""

    hash: str
    """What tokenizer and shards hash to."""
    vocab_size: int
    """Tokens are below it."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """Separate seeds."""

    init: int = 0
    """Of the initialization."""
    data: int = 0
    """Of the order of the data."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """When a run is given up: its loss is not finite, or too high after warmup."""

    margin_nats: float = 1.0
    """How far the loss may be above ln(V)."""
    every_steps: int = 10
    """How often that is looked at."""

    def __post_init__(self) -> None:
        if self.margin_nats <= 0:
            raise InvalidValue("margin_nats", self.margin_nats, "above 0")
        if self.every_steps < 1:
            raise InvalidValue("every_steps", self.every_steps, "at least 1")


@dataclass(frozen=True, slots=True)
class Point:
    """A rung with its hyperparameters and seeds: everything a trunk is, at any length."""

    shape: Shape
    """Width and depth."""
    model: Architecture
    """The architecture."""
    parametrization: Parametrization
    """How rates and initialization follow the shape."""
    optimizer: Optimizer
    """With the rates of the base shape."""
    warmup_steps: int
    """Of the schedule."""
    batch: Batch
    """Tokens of an update, and of a sequence."""
    corpus: Corpus
    """The data."""
    seed: Seeds = Seeds()
    """Of initialization and data."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the arithmetic."""
    divergence: Divergence = Divergence()
    """When it is given up."""
    trainer: str = "builtin"
    """Who trains it."""
    numerics: int = NUMERICS
    """Raised when the stored reference losses move."""
    cycles: Cycles | None = None
    """Of wsd-s, the decays inside the trunk."""


@dataclass(frozen=True, slots=True)
class Anneal:
    """Where one budget leaves the plateau and how it comes down."""

    cut: int
    """The step at which it leaves."""
    end: int
    """How many updates it has."""
    shape: DecayShape = "linear"
    """Along which line it comes down."""
    end_lr_share: float = 0.0
    """To which share of the peak."""
    validation_tokens: int = 0
    """Held-out tokens of its final loss; 0 for the whole split."""
    drops: tuple[Drop, ...] = ()
    """Of a decay by steps, which then has no other shape."""


@dataclass(frozen=True, slots=True)
class JobScience:
    """What a job trains: all that its id depends on."""

    kind: Literal["trunk", "branch", "run"]
    """A trunk, a branch of a trunk, or a run from the first step to the last."""
    point: Point
    """Its rung, hyperparameters and seeds."""
    anneal: Anneal | None = None
    """How it comes down; None for a trunk."""

    def record(self) -> dict[str, Any]:
        """The canonical fields: the job's id is their hash."""
        if self.kind == "branch":
            assert self.anneal is not None
            return {
                "kind": "branch",
                "trunk": trunk_id(self.point),
                "anneal": section("anneal", self.anneal),
            }
        fields = {name: section(name, value) for name, value in _recorded(self.point)}
        fields["kind"] = self.kind
        if self.anneal is not None:
            fields["anneal"] = section("anneal", self.anneal)
        return fields

    @property
    def id(self) -> str:
        if self.kind == "branch":
            assert self.anneal is not None
            return branch_id(trunk_id(self.point), self.anneal)
        return digest(canonical(self.record()))

    def curve(self) -> LearningRateCurve:
        """The learning-rate multiplier at every step of this job."""
        warmup, cycles, a = self.point.warmup_steps, self.point.cycles, self.anneal
        if a is None:
            return LearningRateCurve(warmup, cycles=cycles)
        return LearningRateCurve(warmup, a.cut, a.end, a.shape, a.end_lr_share, a.drops, cycles)


def trunk_id(point: Point) -> str:
    """The id of the point's trunk. Equal to `JobScience("trunk", point).id`, without rebuilding the parts
    that many points share."""
    return _point_id(point, '"kind":"trunk"')


def run_id(point: Point, anneal: Anneal) -> str:
    """The id of a run from the first step to the last. Equal to `JobScience("run", point, anneal).id`."""
    return _point_id(point, f'"anneal":{_section_text("anneal", anneal)}', '"kind":"run"')


def _point_id(point: Point, *more: str) -> str:
    parts = [f'"{name}":{_section_text(name, value)}' for name, value in _recorded(point)]
    return digest("{" + ",".join(sorted([*parts, *more])) + "}")


def branch_id(trunk: str, anneal: Anneal) -> str:
    """The id of a trunk's branch."""
    return digest(f'{{"anneal":{_section_text("anneal", anneal)},"kind":"branch","trunk":"{trunk}"}}')


def read_job(record: dict[str, Any], trunk: dict[str, Any] | None = None) -> JobScience:
    """The job of a record, which for a branch needs its trunk's record too.

    Raises:
        RequestError: a field is unknown, missing or out of range.
    """
    fields = {k: v for k, v in (trunk or record).items() if k not in ("kind", "anneal")}
    anneal = record.get("anneal")
    return JobScience(
        record["kind"],
        read_point(fields),
        read_section(Anneal, "anneal", anneal) if anneal is not None else None,
    )


def read_point(record: dict[str, Any], at: str = "") -> Point:
    """The point of a record, with the fields that were added since it was written at their neutral values.

    Raises:
        RequestError: a field is unknown, missing or out of range.
    """
    fields = dict(record)
    for path, value in NEUTRAL.items():
        name, _, rest = path.partition(".")
        if not rest:
            fields.setdefault(name, value)
    sections = {name: _fields(name, value) for name, value in fields.items() if isinstance(value, dict)}
    return build(Point, fields | sections, at)


def read_section(cls: type[T], name: str, record: dict[str, Any]) -> T:
    """A section that `section` made plain.

    Raises:
        RequestError: a field is unknown, missing or out of range.
    """
    return build(cls, _fields(name, record), name)


def _fields(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """A section's record by the names of its fields, neutral ones filled in."""
    under = f"{name}."
    neutral = {path.removeprefix(under): value for path, value in NEUTRAL.items() if path.startswith(under)}
    names = {word: path.removeprefix(under) for path, word in RECORDED_AS.items() if path.startswith(under)}
    fields = neutral | {names.get(word, word): value for word, value in record.items()}
    return Optimizer.own_keys(fields) if name == Optimizer.at else fields


def with_field(target: T, path: str, value: Any, under: str = "") -> T:
    """A copy of a nested dataclass with one dotted field replaced, validated like any other value. `under` is
    what stands before the path where it is told.

    Raises:
        RequestError: there is no such field, or it cannot have this value.
    """
    new: T = _replaced(target, path.split("."), value, under + path)
    return new


def _replaced(target: Any, names: list[str], value: Any, path: str) -> Any:
    name, rest = names[0], names[1:]
    if isinstance(target, Kinds):
        if names == [target.by]:  # what the one kind does not have, the other takes as its record has it
            fields = _fields(target.at, {**section(target.at, target), target.by: value})
            return build(target.base(), target.own_keys(fields), target.at)
        target.refuse(".".join(names))
    if target is None:
        parent = path.removesuffix("." + ".".join(names))
        raise RequestError(f"{path} cannot be set where {parent} is null.")
    kind = field_type(type(target), name) if dataclasses.is_dataclass(target) else None
    if kind is None:
        valid = [f.name for f in dataclasses.fields(target)] if dataclasses.is_dataclass(target) else []
        prefix = path.removesuffix(".".join(names))
        raise unknown_name("science field", path, [prefix + field for field in valid])
    new = _replaced(getattr(target, name), rest, value, path) if rest else convert(kind, value, path)
    try:
        return dataclasses.replace(target, **{name: new})
    except InvalidValue as error:
        raise error.under(path.rsplit(".", 1)[0]) if "." in path else error from None


def section(name: str, value: Any) -> Any:
    """One section of a record as plain data, without fields at their neutral value."""
    if not dataclasses.is_dataclass(value):
        return value
    always = value.always_recorded if isinstance(value, Optimizer) else {}
    paths = {f"{name}.{field}": content for field, content in {**always, **plain(value)}.items()}
    return {
        RECORDED_AS.get(path, path.rpartition(".")[2]): content
        for path, content in paths.items()
        if path not in NEUTRAL or NEUTRAL[path] != content
    }


def _recorded(point: Point) -> Iterator[tuple[str, Any]]:
    """The point's fields that are not neutral as a whole."""
    for field in _POINT_FIELDS:
        value = getattr(point, field.name)
        if field.name not in NEUTRAL or plain(value) != NEUTRAL[field.name]:
            yield field.name, value


@lru_cache(maxsize=65536)
def _section_text(name: str, value: Any) -> str:
    return canonical(section(name, value))


_POINT_FIELDS = dataclasses.fields(Point)
