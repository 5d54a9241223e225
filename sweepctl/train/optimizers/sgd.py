"""Torch's SGD with momentum, with weight decay apart from the gradient: SGDW (Loshchilov and Hutter 2019,
arXiv 1711.05101, algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch

from sweepctl.spec.optimizers import sgd
from sweepctl.spec.weights import Weight
from sweepctl.train.optimizers.group import Assigned, decay, grouped


def members(spec: sgd.Sgd, tensors: list[Assigned]) -> list[torch.optim.Optimizer]:
    """SGD over all of these tensors."""
    return [Sgd(grouped(tensors), spec.momentum, spec.nesterov)]


def state_keys(spec: sgd.Sgd, weight: Weight) -> set[str]:
    """The momentum, where there is one."""
    return {"momentum_buffer"} if spec.momentum else set()


class Sgd(torch.optim.SGD):
    """b <- momentum b + g; the update is b, or g + momentum b with nesterov.

    Torch's own weight decay would pass through the momentum, so that it would not follow the decay rules.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, nesterov: bool) -> None:
        super().__init__(groups, lr=0.0, momentum=momentum, nesterov=nesterov and momentum > 0, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            decay(group, [parameter for parameter in group["params"] if parameter.grad is not None])
            group["weight_decay"] = 0.0
        super().step()
