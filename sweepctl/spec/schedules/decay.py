"""The decay that a study gives to wsd and wsd-s."""

from __future__ import annotations

from dataclasses import dataclass

from sweepctl.errors import InvalidValue
from sweepctl.spec.learning_rate import DecayShape


@dataclass(frozen=True, slots=True)
class Decay:
    """How a budget anneals."""

    shape: DecayShape = "linear"
    """Along which line it comes down."""
    fraction: float = 0.1
    """Over which share of the budget; in wsd-s of the period since the decay before. 1 decays from the end of
    the warmup."""
    end_lr_share: float = 0.0
    """To which share of the peak."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise InvalidValue("fraction", self.fraction, "above 0 and at most 1")
        check_end(self.end_lr_share)
        if self.shape in ("exponential", "inverse") and self.end_lr_share == 0:
            need = f"above 0 for an {self.shape} decay, which never reaches 0"
            raise InvalidValue("end_lr_share", self.end_lr_share, need)

    def steps(self, period: int) -> int:
        """Steps of the decay at the end of so many."""
        return max(1, round(self.fraction * period))


def check_end(end_lr_share: float) -> None:
    """Raises InvalidValue where a decay cannot end there."""
    if not 0 <= end_lr_share < 1:
        need = "at least 0 and below 1 (a share of the peak learning rate)"
        raise InvalidValue("end_lr_share", end_lr_share, need)
