"""How each optimizer of `spec.optimizers` is made in torch: a module each, found by its name."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

import torch

from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.weights import Weight
from sweepctl.train.optimizers.group import Assigned


class Maker(Protocol):
    """What a module of this folder offers; `spec` is of its own kind."""

    def members(self, spec: Any, tensors: list[Assigned]) -> list[torch.optim.Optimizer]:
        """Torch's optimizers over all of these tensors. `lr` and `weight_decay` of their groups are set
        before every step."""

    def state_keys(self, spec: Any, weight: Weight) -> set[str]:
        """The names under which a tensor's optimizer keeps what it keeps of it."""


def maker(spec: Optimizer) -> Maker:
    """The module of an optimizer."""
    return cast(Maker, import_module(f"{__name__}.{spec.name}"))
