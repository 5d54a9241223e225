"""Warmup and plateau: a budget is a point of one run at its peak, and its loss is not annealed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweepctl.spec.schedules.schedule import ForkingSchedule
from sweepctl.spec.science import Anneal


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant(ForkingSchedule):
    """A budget is a checkpoint of the trunk, evaluated."""

    order = 40
    shares = "everything; not annealed"

    kind: Literal["constant"] = "constant"

    def cut_after(self, warmup: int, end: int) -> int:
        return end

    def anneal(self, cut: int, end: int, validation_tokens: int) -> Anneal:
        return Anneal(cut, end, end_lr_share=1.0, validation_tokens=validation_tokens)
