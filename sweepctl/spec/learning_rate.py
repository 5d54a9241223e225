"""The learning rate at a step, as a share of its peak: the one place that computes it, for the trainer, the
tables and the laws. Pure functions of the step; step t is the t-th update, from 0."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

DecayShape = Literal["linear", "1-sqrt", "cosine", "exponential", "square", "mirror-cosine", "inverse"]
Drop = tuple[float, ...]
"""(step, share of the peak from there on)."""

_FALLS: dict[str, Callable[[float], float]] = {
    "linear": lambda p: 1.0 - p,
    "1-sqrt": lambda p: 1.0 - math.sqrt(p),
    "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
    "square": lambda p: 1.0 - p * p,
    "mirror-cosine": lambda p: 2.0 * (1.0 - p) - 0.5 * (1.0 + math.cos(math.pi * p)),
}


def rise(step: int, warmup: int) -> float:
    """The share of the peak at a step, as warmup alone has it: linear, 1 from its last step on."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def decay_multiplier(shape: DecayShape, progress: float, end_lr_share: float) -> float:
    """From 1 at progress 0 to `end_lr_share` at progress 1.

    1-sqrt is the cooldown of Hagele et al. 2024 (arXiv 2405.18392, section 3), whose code also has square and
    mirror-cosine, the cosine turned about the straight line; exponential is MiniCPM's (arXiv 2404.06395,
    equation 2) with the share as its end point; inverse is linear in 1 / rate (Wen et al. 2024, arXiv
    2410.05192, of WSD-S).
    """
    if shape == "exponential":
        return float(end_lr_share**progress)
    if shape == "inverse":
        return 1.0 / (1.0 - progress + progress / end_lr_share)
    return end_lr_share + (1.0 - end_lr_share) * _FALLS[shape](progress)


@dataclass(frozen=True, slots=True)
class Cycles:
    """The decays inside a WSD-S trunk, after each of which it goes on from the decayed weights (Wen et al.
    2024, arXiv 2410.05192): its budgets are part of its science."""

    decays: tuple[tuple[int, ...], ...]
    """Each (cut, end) in steps, in rising order."""
    shape: DecayShape = "linear"
    """The shape of every decay."""
    end_lr_share: float = 0.0
    """The share of the peak at which every decay ends."""
    rewarm_steps: int = 0
    """Steps over which the rate rises to its peak again after a decay."""

    def effective(self) -> Self:
        """The same with what changes nothing at one value: after the last decay nothing rises again."""
        return self if len(self.decays) > 1 else dataclasses.replace(self, rewarm_steps=0)

    def at(self, step: int) -> float:
        """The share of the peak at a step, warmup apart."""
        begun = [decay for decay in self.decays if decay[0] <= step]
        if not begun:
            return 1.0
        cut, end = begun[-1]
        if step < end:
            return decay_multiplier(self.shape, (step - cut) / (end - cut), self.end_lr_share)
        if step - end < self.rewarm_steps:
            return self.end_lr_share + (1.0 - self.end_lr_share) * (step - end + 1) / self.rewarm_steps
        return 1.0


@dataclass(frozen=True, slots=True)
class LearningRateCurve:
    """The share of the peak learning rate at every step of one job."""

    warmup: int
    """Steps of warmup."""
    cut: int | None = None
    """The step at which the decay begins; None for a trunk."""
    end: int | None = None
    """The step at which it would have ended; None for a trunk, which has no end."""
    shape: DecayShape = "linear"
    """The shape of the decay."""
    end_lr_share: float = 0.0
    """The share of the peak at `end`."""
    drops: tuple[Drop, ...] = ()
    """What takes the place of the shape where the rate falls by steps."""
    cycles: Cycles | None = None
    """Decays of the trunk before the cut."""

    def at(self, step: int) -> float:
        """The share at a step: 1 on the plateau, `end_lr_share` where the decay would end."""
        share = rise(step, self.warmup)
        if self.cycles is not None:
            share *= self.cycles.at(step)
        if self.cut is None or self.end is None or step < self.cut or self.cut == self.end:
            return share
        if self.drops:
            return share * next((after for at, after in reversed(self.drops) if at <= step), 1.0)
        progress = (step - self.cut) / (self.end - self.cut)
        return share * decay_multiplier(self.shape, progress, self.end_lr_share)

    def knots(self, parts: int) -> list[int]:
        """Steps of the decay, rising, between which the rate is taken as linear: `parts` equal ones, and both
        sides of every drop. The last update stands for a decay without a step."""
        assert self.cut is not None and self.end is not None
        last = self.end - 1
        steps = {self.cut + round((last - self.cut) * part / parts) for part in range(parts + 1)}
        steps |= {int(step) + side for step, _ in self.drops for side in (-1, 0)}
        return sorted(step for step in steps if self.cut <= step <= last or step == last)
