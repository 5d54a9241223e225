"""Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2)."""

from __future__ import annotations

from typing import Any

import torch

from sweepctl.spec.optimizers import lion
from sweepctl.spec.weights import Weight
from sweepctl.train.optimizers.group import Assigned, decay, grouped, kept, live


def members(spec: lion.Lion, tensors: list[Assigned]) -> list[torch.optim.Optimizer]:
    """Lion over all of these tensors."""
    return [Lion(grouped(tensors), spec.beta1, spec.beta2)]


def state_keys(spec: lion.Lion, weight: Weight) -> set[str]:
    """The momentum."""
    return {"momentum"}


class Lion(torch.optim.Optimizer):
    """The sign of beta1 m + (1 - beta1) g, with the momentum m <- beta2 m + (1 - beta2) g kept after it."""

    def __init__(self, groups: list[dict[str, Any]], beta1: float, beta2: float) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self.beta1, self.beta2 = beta1, beta2

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters, gradients = live(group)
            if not parameters:
                continue
            momentum = kept(self, parameters, "momentum")
            direction = torch._foreach_lerp(momentum, gradients, 1 - self.beta1)
            torch._foreach_sign_(direction)
            decay(group, parameters)
            torch._foreach_add_(parameters, direction, alpha=-group["lr"])
            torch._foreach_lerp_(momentum, gradients, 1 - self.beta2)
