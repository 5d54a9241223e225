"""What the optimizer is told. `lr` is the peak at the base shape; the parametrization scales it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweepctl.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class Optimizer:
    """AdamW. `weight_decay_rule` coupled multiplies weights by 1 - lr x decay, independent by 1 - decay x
    (lr / peak lr), so that the decay does not depend on the peak learning rate."""

    name: Literal["adamw"] = "adamw"
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    weight_decay_rule: Literal["coupled", "independent"] = "coupled"
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise InvalidValue("lr", self.lr, "above 0")
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise InvalidValue(key, getattr(self, key), "at least 0 and below 1")
        if self.eps <= 0:
            raise InvalidValue("eps", self.eps, "above 0")
        if self.weight_decay < 0:
            raise InvalidValue("weight_decay", self.weight_decay, "at least 0")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise InvalidValue("clip_norm", self.clip_norm, "above 0, or null for no clipping")
