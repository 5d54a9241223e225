"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum, made orthogonal, block by block.

Torch's own (2.9 and later) takes each tensor as one matrix, one after the other, and lacks the spectral rule;
a test holds this one against it. Here stacked blocks (queries, keys and values; gate and up; experts) are
matrices of their own, and all blocks of one shape, upright or lying, share one chain of batched products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sweepctl.spec.optimizers import muon
from sweepctl.spec.weights import Weight
from sweepctl.train.optimizers import adamw
from sweepctl.train.optimizers.group import Assigned, decay, grouped, kept, live

QUINTIC = (3.4445, -4.7750, 2.0315)
"""a, b, c of x <- a x + b x^3 + c x^5, applied to singular values; after five steps those that
began above 0.003 are between 0.68 and 1.21."""
SMALLEST_NORM = 1e-7


def members(spec: muon.Muon, tensors: list[Assigned]) -> list[torch.optim.Optimizer]:
    """Muon over the matrices inside blocks, where there are any, and AdamW over the rest."""
    matrices = [tensor for tensor in tensors if spec.orthogonalizes(tensor.weight)]
    rest = [tensor for tensor in tensors if not spec.orthogonalizes(tensor.weight)]

    def options(tensor: Assigned) -> dict[str, Any]:
        weight = tensor.weight
        return {"block": (weight.fan_out, weight.fan_in), "scale": spec.scale(weight)}

    groups = grouped(matrices, options)
    orthogonal = [Muon(groups, spec.momentum, spec.nesterov, spec.muon_steps)] if groups else []
    return [*orthogonal, *adamw.members(spec, rest)]


def state_keys(spec: muon.Muon, weight: Weight) -> set[str]:
    """The momentum of a matrix inside blocks, AdamW's moments of the rest."""
    return {"momentum_buffer"} if spec.orthogonalizes(weight) else adamw.state_keys(spec, weight)


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """U S V^T -> about U V^T, for each of a stack [n, rows, columns] with rows <= columns, by Newton-Schulz
    steps from the matrix over its Frobenius norm. Zeros stay zeros."""
    a, b, c = QUINTIC
    norm = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True)
    x: Tensor = matrices / norm.clamp_(min=SMALLEST_NORM)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """m <- momentum m + (1 - momentum) g; the update is lr x scale x the orthogonalized m, or with nesterov
    momentum m + (1 - momentum) g in its place.

    A group has besides lr and weight_decay `block`, the (outputs, inputs) of one matrix of its tensors, and
    `scale`. Products are in fp32 on a CPU and in bf16 elsewhere, as in the original; the momentum is fp32.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, nesterov: bool, steps: int) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self.momentum, self.nesterov, self.steps = momentum, nesterov, steps
        on_cpu = self.param_groups[0]["params"][0].device.type == "cpu"
        self.precision = torch.float32 if on_cpu else torch.bfloat16

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        families: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        for group in self.param_groups:
            families.setdefault(tuple(sorted(group["block"])), []).append(group)
        for groups in families.values():
            self._update([(group, *live(group)) for group in groups])

    def _update(self, groups: list[tuple[dict[str, Any], list[Tensor], list[Tensor]]]) -> None:
        """One update of groups whose blocks have the same two sides."""
        stacks = [
            _stack(direction, group["block"])
            for group, parameters, gradients in groups
            for direction in self._directions(parameters, gradients)
        ]
        if not stacks:
            return
        directions = orthogonalize(torch.cat(stacks).to(self.precision), self.steps).to(stacks[0].dtype)
        pieces = iter(torch.split(directions, [len(stack) for stack in stacks]))
        for group, parameters, _ in groups:
            decay(group, parameters)
            updates = [_unstack(next(pieces), group["block"], parameter) for parameter in parameters]
            if parameters:
                torch._foreach_add_(parameters, updates, alpha=-group["lr"] * group["scale"])

    def _directions(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """The momentum after this step, or with nesterov where it is going."""
        if not parameters:
            return []
        momentum = kept(self, parameters, "momentum_buffer")
        torch._foreach_lerp_(momentum, gradients, 1 - self.momentum)
        return list(torch._foreach_lerp(gradients, momentum, self.momentum)) if self.nesterov else momentum


def _stack(tensor: Tensor, block: tuple[int, int]) -> Tensor:
    """A tensor as its blocks [n, shorter side, longer side]."""
    blocks = tensor.reshape(-1, *block)
    return blocks.mT if block[0] > block[1] else blocks


def _unstack(stack: Tensor, block: tuple[int, int], like: Tensor) -> Tensor:
    """`_stack` undone."""
    return (stack.mT if block[0] > block[1] else stack).reshape(like.shape)
