"""What the optimizers here share: groups of tensors, what is kept of them, and weight decay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sweepctl.spec.weights import Weight


@dataclass(frozen=True, slots=True)
class Terms:
    """What the tensors of one group are updated by."""

    lr: float
    """The peak learning rate."""
    weight_decay: float
    """At an update weights lose learning rate x this of themselves."""
    eps: float | None
    """Epsilon, None for an optimizer that has none."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """A tensor of a model and what it is updated by."""

    weight: Weight
    """What the parametrization knows of it."""
    parameter: nn.Parameter
    """The tensor itself."""
    terms: Terms
    """Its learning rate, decay and epsilon."""


def grouped(
    tensors: list[Assigned], options: Callable[[Assigned], dict[str, Any]] = lambda tensor: {}
) -> list[dict[str, Any]]:
    """Groups as torch's optimizers take them: tensors of the same terms and of the same further options."""
    groups: dict[Any, dict[str, Any]] = {}
    for tensor in tensors:
        own = options(tensor)
        group = {"params": [], "terms": tensor.terms, **own}
        groups.setdefault((tensor.terms, *own.items()), group)["params"].append(tensor.parameter)
    return list(groups.values())


def live(group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters of a group that have a gradient, and their gradients."""
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    return parameters, [parameter.grad for parameter in parameters]


def kept(optimizer: torch.optim.Optimizer, parameters: list[Tensor], key: str) -> list[Tensor]:
    """What the optimizer keeps of each parameter under this key, zeros at first."""
    for parameter in parameters:
        if key not in optimizer.state[parameter]:
            optimizer.state[parameter][key] = torch.zeros_like(parameter)
    return [optimizer.state[parameter][key] for parameter in parameters]


def decay(group: dict[str, Any], parameters: list[Tensor]) -> None:
    """Multiply by 1 - lr x decay, apart from the gradient (Loshchilov and Hutter 2019, arXiv 1711.05101,
    section 2)."""
    if group["weight_decay"] and parameters:
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
