"""What every kind of learning-rate schedule is: its own keys and checks, and where its budgets part."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec import schedules
from sweepctl.spec.build import build, field_type, plain
from sweepctl.spec.learning_rate import Cycles
from sweepctl.spec.science import Anneal, with_field


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(ABC):
    """Warmup, and what follows. Exactly one of `warmup_steps` and `warmup_tokens` is given: steps or tokens,
    never a share of the budget, so that budgets can share it."""

    order: ClassVar[int] = 100
    """Its place in the plan's comparison of schedules."""
    shares: ClassVar[str]
    """What the budgets of one rung have in common, in words."""

    kind: str
    """The word for it in studies, plans and tables."""
    warmup_steps: int | None = None
    """Warmup in steps."""
    warmup_tokens: int | None = None
    """Warmup in tokens, rounded to the nearest whole step."""

    def __post_init__(self) -> None:
        if (self.warmup_steps is None) == (self.warmup_tokens is None):
            raise InvalidValue(
                "",
                {"warmup_steps": self.warmup_steps, "warmup_tokens": self.warmup_tokens},
                "given one of the two, the other null",
            )
        self._at_least_0("warmup_steps", "warmup_tokens")

    def _at_least_0(self, *keys: str) -> None:
        for key in keys:
            value = getattr(self, key)
            if value is not None and value < 0:
                raise InvalidValue(key, value, "at least 0")

    @classmethod
    def variant(cls, raw: Mapping[str, Any], at: str) -> type[Schedule]:
        """The class that `build` makes of a mapping: by its kind."""
        if "kind" not in raw:
            raise RequestError(f"{at}.kind is missing.")
        return kind_named(raw["kind"], f"{at}.kind")

    def with_settings(self, settings: Mapping[str, Any]) -> Schedule:
        """With those settings of a point that begin with `schedule.`, the kind first, as the rest are of it.

        Raises:
            RequestError: the kind has no such key, or it cannot have this value.
        """
        schedule: Schedule = self
        for path in sorted(settings, key=lambda path: path != "schedule.kind"):
            group, _, key = path.partition(".")
            if path == "schedule.kind":
                schedule = schedule.as_kind(settings[path])
            elif group == "schedule":
                schedule = with_field(schedule, key, settings[path])
        return schedule

    def as_kind(self, kind: str) -> Schedule:
        """Another kind with the settings that both have, and its own defaults for the rest."""
        record = {**plain(self), "kind": kind_named(kind, "schedule.kind").word()}
        return build(Schedule, own_keys(record), "schedule")  # type: ignore[type-abstract]

    @classmethod
    def word(cls) -> str:
        """The kind's name."""
        return str(cls.__dataclass_fields__["kind"].default)

    @property
    def title(self) -> str:
        """Its name in the plan's comparison, with its proportions."""
        return self.kind

    @property
    def shared(self) -> str:
        """What its budgets have in common, in words."""
        return self.shares

    @property
    def forks(self) -> bool:
        """Whether budgets are branches of a trunk."""
        return False

    def with_fork(self, fork: bool) -> Self:
        """The same with every budget a branch, or a run from its first step; a kind that cannot fork as it
        is."""
        return self

    def warmup(self, batch_tokens: int) -> int:
        """Warmup in steps."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        assert self.warmup_tokens is not None
        return round(self.warmup_tokens / batch_tokens)

    @abstractmethod
    def cut_after(self, warmup: int, end: int) -> int:
        """The step at which a budget of `end` steps leaves what it shares with longer ones, or, of a kind
        that shares nothing, its warmup; before `warmup` where the budget is too short."""

    def cut(self, end: int, batch_tokens: int) -> int:
        """The step at which a budget of `end` steps leaves what it shares with longer ones.

        Raises:
            RequestError: that lies inside the warmup, which trunks cannot share.
        """
        warmup = self.warmup(batch_tokens)
        cut = self.cut_after(warmup, end)
        if cut < warmup:
            what = "ends" if cut == end else "decays from"
            raise RequestError(
                f"A budget of {end} steps {what} {'' if cut == end else f'step {cut}, '}inside the warmup of "
                f"{warmup} steps; ask for more tokens, a shorter warmup or a smaller decay, or leave it out "
                "with budget.min_steps."
            )
        return cut

    @abstractmethod
    def anneal(self, cut: int, end: int, validation_tokens: int) -> Anneal:
        """How a budget of `end` steps comes down from its cut: what goes into its science.

        Raises:
            RequestError: the budget is too short for it.
        """

    def cycles(self, ends: Sequence[int], batch_tokens: int) -> Cycles | None:
        """The decays that budgets ending at these rising steps leave in their trunk; None where a trunk knows
        nothing of its budgets.

        Raises:
            RequestError: one budget's decay reaches into what comes before it.
        """
        return None

    def steps_trained(self, warmup: int, ends: Iterable[int]) -> int:
        """Updates of all budgets of a point together, what they share counted once."""
        ends = list(ends)
        if not self.forks:
            return sum(ends)
        cuts = [self.cut_after(warmup, end) for end in ends]
        return max(cuts) + sum(end - cut for cut, end in zip(cuts, ends, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkingSchedule(Schedule):
    """A schedule whose budgets are the same run before their cuts: a trunk."""

    fork: bool = True
    """False trains every budget from its first step."""

    @property
    def shared(self) -> str:
        return self.shares if self.fork else "nothing: fork is false"

    @property
    def forks(self) -> bool:
        return self.fork

    def with_fork(self, fork: bool) -> Self:
        return dataclasses.replace(self, fork=fork)


@cache
def kinds() -> dict[str, type[Schedule]]:
    """Every kind by its name, in the order of the plan's comparison: the concrete classes of the modules
    beside this one."""
    every = []
    for module in pkgutil.iter_modules(schedules.__path__, f"{schedules.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            of_schedule = inspect.isclass(value) and issubclass(value, Schedule)
            if of_schedule and value.__module__ == module.name and not inspect.isabstract(value):
                every.append(value)
    return {kind.word(): kind for kind in sorted(every, key=lambda kind: (kind.order, kind.word()))}


def kind_named(name: Any, at: str) -> type[Schedule]:
    """A kind by its name.

    Raises:
        InvalidValue: there is none.
    """
    if name not in kinds():
        raise InvalidValue(at, name, f"one of {', '.join(kinds())}")
    return kinds()[name]


def own_keys(record: Mapping[str, Any], asked: Collection[str] = ()) -> dict[str, Any]:
    """A schedule's record without the keys of other kinds.

    A study's file may set keys of the kind it was written for where another is chosen over it. Keys that no
    kind has stay, to be refused, and so do dotted keys that were `asked` for.
    """
    own = key_paths(kind_named(record.get("kind"), "schedule.kind"))
    every = set().union(*(key_paths(kind) for kind in kinds().values()))

    def kept(part: Mapping[str, Any], under: str) -> dict[str, Any]:
        paths = {key: f"{under}{key}" for key in part}
        return {
            key: kept(part[key], f"{path}.") if isinstance(part[key], Mapping) else part[key]
            for key, path in paths.items()
            if path in own
            or path not in every
            or any(asked_path == path or asked_path.startswith(f"{path}.") for asked_path in asked)
        }

    return kept(record, "")


def key_paths(cls: Any, under: str = "") -> set[str]:
    """Dotted names of a dataclass's fields, and of those inside them."""
    paths = set()
    for field in dataclasses.fields(cls):
        paths.add(f"{under}{field.name}")
        inner = field_type(cls, field.name)
        if dataclasses.is_dataclass(inner):
            paths |= key_paths(inner, f"{under}{field.name}.")
    return paths
