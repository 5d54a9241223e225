"""Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.weights import Weight


@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """The sign of a mean of gradients; its rate is scaled as Adam's."""

    always_recorded: ClassVar[dict[str, Any]] = {"eps": 1e-12}

    name: Literal["lion"] = "lion"
    beta1: float
    """Of the mean whose sign is the update."""
    beta2: float
    """Of the mean that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._below_1("beta1", "beta2")

    def moments(self, weight: Weight) -> int:
        return 1

    def update_values(self, weight: Weight) -> int:
        return 1  # the direction
