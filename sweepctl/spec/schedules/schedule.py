"""What every kind of learning-rate schedule is: its own keys and checks, and where its budgets part."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec.kinds import Kinds
from sweepctl.spec.learning_rate import Cycles
from sweepctl.spec.science import Anneal


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(Kinds):
    """Warmup, and what follows. Exactly one of `warmup_steps` and `warmup_tokens` is given: steps or tokens,
    never a share of the budget, so that budgets can share it."""

    by = "kind"
    at = "schedule"
    shares: ClassVar[str]
    """What the budgets of one rung have in common, in words."""
    another_law: ClassVar[str] = ""
    """What its runs do that makes their losses another law than those of other schedules; empty where that of
    wsd is theirs too."""

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
