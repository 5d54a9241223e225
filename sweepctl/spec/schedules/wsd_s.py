"""WSD-S (Wen et al. 2024, arXiv 2410.05192): decays inside one run, which goes on from the decayed weights. A
budget is a point of a run whose other budgets shape it, which is another law than that of wsd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec.learning_rate import Cycles
from sweepctl.spec.schedules.decay import Decay
from sweepctl.spec.schedules.schedule import ForkingSchedule, Schedule
from sweepctl.spec.science import Anneal


@dataclass(frozen=True, slots=True, kw_only=True)
class WsdS(ForkingSchedule):
    """A budget is a checkpoint of the trunk at the end of one of its decays."""

    order = 50
    shares = "everything, decays too: another law"
    another_law = "goes on from decayed weights"

    kind: Literal["wsd-s"] = "wsd-s"
    decay: Decay = Decay()
    """Of each budget, a fraction of the period since the one before, as in OLMo-core's ladder
    (WSDSChinchillaRunConfigurator)."""
    rewarm_steps: int = 0
    """Steps over which the rate rises to its peak again after a decay."""
    rewarm_tokens: int | None = None
    """The same in tokens, in their place."""

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)
        self._at_least_0("rewarm_steps", "rewarm_tokens")
        if self.rewarm_steps and self.rewarm_tokens is not None:
            raise InvalidValue("rewarm_tokens", self.rewarm_tokens, "null where rewarm_steps is given")

    @property
    def title(self) -> str:
        return f"WSD-S, decay {self.decay.fraction:.3g}"

    def cut_after(self, warmup: int, end: int) -> int:
        return end

    def anneal(self, cut: int, end: int, validation_tokens: int) -> Anneal:
        return Anneal(cut, end, self.decay.shape, self.decay.end_lr_share, validation_tokens)

    def cycles(self, ends: Sequence[int], batch_tokens: int) -> Cycles:
        rewarm = self.rewarm_steps
        if self.rewarm_tokens is not None:
            rewarm = round(self.rewarm_tokens / batch_tokens)
        decays: list[tuple[int, ...]] = []
        before, ready, what = 0, self.warmup(batch_tokens), "warmup"
        for end in ends:
            cut = end - self.decay.steps(end - before)
            if self.decay.fraction == 1:
                cut = min(max(cut, ready), end - 1)
            if cut < ready:
                raise RequestError(
                    f"The decay of the budget of {end} steps begins at step {cut}, inside the {what} that "
                    f"ends at step {ready}; space the budgets further apart, or shorten the decay or the "
                    f"{what}."
                )
            decays.append((cut, end))
            before, ready, what = end, end + rewarm, "rewarming"
        return Cycles(tuple(decays), self.decay.shape, self.decay.end_lr_share, rewarm)
