"""The loss of a large vocabulary, a few rows of logits at a time.

Logits are the largest tensor of a training step: rows x vocabulary, in bf16 once, in fp32 again for the
softmax, and once more for their gradient. Here a chunk of them lives at a time. Its gradient is taken in the
forward pass, while it is there, so that no product is made twice; the head's is summed over the chunks in
fp32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def chunked_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, multiplier: float, rows: int, uncounted: int = -100
) -> Tensor:
    """x [N, d], weight [V, d], targets [N] -> the mean cross-entropy in nats of the logits
    multiplier * x weight^T, in fp32 (float64 for float64), over the targets that are not `uncounted`.

    Products are in autocast's precision where it is on, as those of the plain loss are.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    if torch.is_grad_enabled():
        loss: Tensor = _Chunked.apply(x, weight, targets, multiplier, rows, uncounted, dtype)  # type: ignore[no-untyped-call]
        return loss
    head = weight.to(dtype)
    losses = [
        F.cross_entropy(_logits(part, head, multiplier), y, ignore_index=uncounted, reduction="sum")
        for part, y in zip(torch.split(x.to(dtype), rows), torch.split(targets, rows), strict=True)
    ]
    return torch.stack(losses).sum() / (targets != uncounted).sum()


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What is summed in."""
    return dtype if dtype == torch.float64 else torch.float32


def _logits(x: Tensor, head: Tensor, multiplier: float) -> Tensor:
    return torch.mm(x, head.t()).to(_wide(x.dtype)) * multiplier


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        multiplier: float,
        rows: int,
        uncounted: int,
        dtype: torch.dtype,
    ) -> Tensor:
        head, wide = weight.to(dtype), _wide(dtype)
        vocabulary = torch.arange(len(weight), device=x.device)
        counted = targets != uncounted
        count = counted.sum().to(wide)
        losses, slopes_of_x = [], []
        slope_of_weight = torch.zeros_like(weight, dtype=wide)
        pieces = zip(
            torch.split(x.to(dtype), rows),
            torch.split(targets, rows),
            torch.split(counted, rows),
            strict=True,
        )
        for part, y, real in pieces:
            logits = _logits(part, head, multiplier)
            normalizer = logits.logsumexp(1, keepdim=True)
            is_target = vocabulary == y[:, None]
            own = torch.where(is_target, logits, 0.0).sum(1, keepdim=True)
            losses.append(torch.where(real[:, None], normalizer - own, 0.0).sum())
            slope = (logits - normalizer).exp() - is_target.to(wide)
            slope = (slope * (real[:, None] * (multiplier / count))).to(dtype)
            slopes_of_x.append(torch.mm(slope, head))
            slope_of_weight += torch.mm(slope.t(), part)
        ctx.save_for_backward(torch.cat(slopes_of_x).to(x.dtype), slope_of_weight)
        ctx.weight_dtype = weight.dtype
        return torch.stack(losses).sum() / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_x, of_weight = ctx.saved_tensors
        return of_x * grad.to(of_x.dtype), (of_weight * grad).to(ctx.weight_dtype), *(None,) * 5
