"""What every optimizer is: its own keys, and the rate, decay and epsilon of every tensor.

`lr` is the peak at the base shape; the parametrization scales it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from sweepctl.errors import InvalidValue
from sweepctl.spec.kinds import Kinds
from sweepctl.spec.parametrization import Row
from sweepctl.spec.weights import Weight

DecayRule = Literal["coupled", "independent", "scaled"]


@dataclass(frozen=True, kw_only=True)
class Optimizer(Kinds):
    """What all optimizers have. No key has a default here: the files of `conf/optimizer` give every value."""

    by = "name"
    at = "optimizer"
    always_recorded: ClassVar[Mapping[str, Any]] = {}
    """Keys that it does not have, and the values that its records held for them when all optimizers had the
    same keys. They are still written, so that ids stay; never changed, and nothing for a new optimizer."""
    sized_by: ClassVar[tuple[str, ...]] = ()
    """Its keys that `moments` depends on."""

    name: str
    """The word for it in studies, plans and tables."""
    lr: float
    """The peak learning rate at the parametrization's base shape."""
    weight_decay: float
    """How much weights decay; vectors do not."""
    weight_decay_rule: DecayRule
    """What an update at the peak multiplies weights by. coupled: 1 - lr x decay, with each tensor's own
    learning rate and the parametrization's multiplier on decay; scaled: the same with the learning rate
    before the parametrization's multiplier, so that the decay is the same at every width; independent:
    1 - decay, whatever the peak."""
    clip_norm: float | None
    """The norm over all of the model that gradients are clipped to, None for never."""

    def __post_init__(self) -> None:
        self._above_0("lr")
        if self.weight_decay < 0:
            raise InvalidValue("weight_decay", self.weight_decay, "at least 0")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise InvalidValue("clip_norm", self.clip_norm, "above 0, or null for no clipping")

    def effective(self) -> Self:
        """The same with every key that changes nothing here at one value."""
        return self if self.weight_decay else replace(self, weight_decay_rule="coupled")

    def _above_0(self, *keys: str) -> None:
        for key in keys:
            if getattr(self, key) <= 0:
                raise InvalidValue(key, getattr(self, key), "above 0")

    def _below_1(self, *keys: str) -> None:
        for key in keys:
            if not 0 <= getattr(self, key) < 1:
                raise InvalidValue(key, getattr(self, key), "at least 0 and below 1")

    @abstractmethod
    def moments(self, weight: Weight) -> int:
        """How many numbers it keeps of every element of a tensor."""

    def update_values(self, weight: Weight) -> int:
        """How many fp32 numbers of every element of a tensor it needs while it updates, for a moment."""
        return 0

    def base_lr(self, weight: Weight) -> float:
        """The peak learning rate of this tensor before the parametrization's multiplier."""
        return self.lr

    def lr_multiplier(self, weight: Weight, row: Row) -> float:
        """The parametrization's multiplier on the learning rate of this tensor: Adam's, unless it is said
        otherwise."""
        return row.lr

    def decay_multiplier(self, weight: Weight, row: Row) -> float:
        """The parametrization's multiplier on the coupled decay of this tensor. It answers the multiplier on
        Adam's learning rate (CompleteP: m against 1 / m): who has not the one has not the other."""
        return row.weight_decay

    def epsilon(self, row: Row) -> float | None:
        """What is added to the denominators of updates; None where there is no denominator."""
        return None

    def peak_lr(self, weight: Weight, row: Row) -> float:
        """The peak learning rate of this tensor."""
        return self.base_lr(weight) * self.lr_multiplier(weight, row)

    def decay(self, weight: Weight, row: Row) -> float:
        """What the learning rate of this tensor is multiplied by to give the share it loses at an update."""
        if not row.weight_decay:
            return 0.0
        if self.weight_decay_rule == "independent":
            return self.weight_decay / self.peak_lr(weight, row)
        if self.weight_decay_rule == "scaled":
            return self.weight_decay * self.base_lr(weight) / self.peak_lr(weight, row)
        return self.weight_decay * self.decay_multiplier(weight, row)
