"""Warmup, then a cosine to the budget's end, on which it depends at every step: budgets share nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweepctl.spec.schedules.decay import check_end
from sweepctl.spec.schedules.schedule import Schedule
from sweepctl.spec.science import Anneal


@dataclass(frozen=True, slots=True)
class CosineDecay:
    """Where the cosine ends."""

    end_lr_share: float = 0.1
    """At which share of the peak."""

    def __post_init__(self) -> None:
        check_end(self.end_lr_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosine(Schedule):
    """Every budget is a run of its own."""

    order = 30
    shares = "nothing"

    kind: Literal["cosine"] = "cosine"
    decay: CosineDecay = CosineDecay()
    """From the end of the warmup to the budget's end."""

    def cut_after(self, warmup: int, end: int) -> int:
        return min(warmup, end - 1)

    def anneal(self, cut: int, end: int, validation_tokens: int) -> Anneal:
        return Anneal(cut, end, "cosine", self.decay.end_lr_share, validation_tokens)
