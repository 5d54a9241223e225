"""Warmup, plateau, decay: the plateau is shared by all budgets, each of which has a decay of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweepctl.spec.schedules.decay import Decay
from sweepctl.spec.schedules.schedule import ForkingSchedule
from sweepctl.spec.science import Anneal


@dataclass(frozen=True, slots=True, kw_only=True)
class Wsd(ForkingSchedule):
    """A budget leaves the plateau where its decay begins."""

    order = 10
    shares = "all before the decay"

    kind: Literal["wsd"] = "wsd"
    decay: Decay = Decay()
    """Of each budget."""

    @property
    def title(self) -> str:
        return f"WSD, decay {self.decay.fraction:.3g}"

    def cut_after(self, warmup: int, end: int) -> int:
        if self.decay.fraction == 1:
            return min(warmup, end - 1)
        return end - self.decay.steps(end)

    def anneal(self, cut: int, end: int, validation_tokens: int) -> Anneal:
        return Anneal(cut, end, self.decay.shape, self.decay.end_lr_share, validation_tokens)
