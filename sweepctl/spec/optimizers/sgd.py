"""Stochastic gradient descent with momentum, and decay apart from the gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.parametrization import Row
from sweepctl.spec.weights import Weight


@dataclass(frozen=True, kw_only=True)
class Sgd(Optimizer):
    """SGD; the parametrizations have a column of their own for it."""

    always_recorded: ClassVar[dict[str, Any]] = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-12}
    sized_by = ("momentum",)

    name: Literal["sgd"] = "sgd"
    momentum: float
    """Of the sum of gradients; 0 keeps none."""
    nesterov: bool
    """Whether the update looks one gradient ahead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._below_1("momentum")

    def effective(self) -> Self:
        same = super().effective()
        return same if self.momentum else replace(same, nesterov=False)

    def moments(self, weight: Weight) -> int:
        return 1 if self.momentum else 0

    def lr_multiplier(self, weight: Weight, row: Row) -> float:
        return row.lr_sgd

    def decay_multiplier(self, weight: Weight, row: Row) -> float:
        return 1.0
