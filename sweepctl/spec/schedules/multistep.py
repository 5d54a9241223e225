"""Warmup, plateau, drops (DeepSeek LLM, arXiv 2401.02954, section 2.3): the plateau is shared."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec.learning_rate import Drop
from sweepctl.spec.schedules.schedule import ForkingSchedule, Schedule
from sweepctl.spec.science import Anneal

DEEPSEEK_DROPS = ((0.8, 0.316), (0.9, 0.1))
"""31.6 % of the peak from 80 % of the tokens on, 10 % from 90 % on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiStep(ForkingSchedule):
    """A budget leaves the plateau at its first drop."""

    order = 20
    shares = "all before the first drop"

    kind: Literal["multistep"] = "multistep"
    drops: tuple[tuple[float, ...], ...] = DEEPSEEK_DROPS
    """Each (share of the budget, multiplier from there on)."""

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)
        at = [list(drop) for drop in self.drops]
        if not at or any(len(drop) != 2 for drop in at):
            need = "a list of [share of the budget, multiplier], such as [[0.8, 0.316]]"
            raise InvalidValue("drops", at, need)
        shares = [drop[0] for drop in at]
        if not all(0 < share < 1 for share in shares) or sorted(set(shares)) != shares:
            raise InvalidValue("drops", at, "at rising shares of the budget between 0 and 1")
        multipliers = [1.0, *(drop[1] for drop in at)]
        if any(not 0 < after <= before for before, after in itertools.pairwise(multipliers)):
            need = "a list whose multipliers are above 0, at most 1 and do not rise"
            raise InvalidValue("drops", at, need)

    @property
    def title(self) -> str:
        return f"multi-step at {', '.join(f'{drop[0]:.3g}' for drop in self.drops)}"

    def cut_after(self, warmup: int, end: int) -> int:
        return round(self.drops[0][0] * end)

    def anneal(self, cut: int, end: int, validation_tokens: int) -> Anneal:
        drops = self._at_steps(end)
        last = drops[-1][1]
        return Anneal(cut, end, end_lr_share=last, validation_tokens=validation_tokens, drops=drops)

    def _at_steps(self, end: int) -> tuple[Drop, ...]:
        """The drops of a budget of `end` steps.

        Raises:
            RequestError: two of them, or one and the end, fall on the same step.
        """
        steps = [round(share * end) for share, _ in self.drops]
        if any(after <= before for before, after in itertools.pairwise([*steps, end])):
            raise RequestError(
                f"A budget of {end} steps is too short for {len(steps)} drops, at steps "
                f"{', '.join(map(str, steps))}; ask for more tokens, or leave it out with budget.min_steps."
            )
        return tuple((float(step), drop[1]) for step, drop in zip(steps, self.drops, strict=True))
