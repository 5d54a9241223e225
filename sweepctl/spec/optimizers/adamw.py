"""AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.parametrization import Row
from sweepctl.spec.weights import Weight


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """The keys of AdamW, for itself and for what leaves some tensors to it."""

    beta1: float
    """Of the mean of gradients."""
    beta2: float
    """Of the mean of their squares."""
    eps: float
    """Added to the root of that mean, times the parametrization's multiplier on epsilon."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._below_1("beta1", "beta2")
        self._above_0("eps")

    def moments(self, weight: Weight) -> int:
        return 2

    def epsilon(self, row: Row) -> float | None:
        return self.eps * row.eps


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """AdamW for every tensor."""

    name: Literal["adamw"] = "adamw"
