"""The few tensor operations where the obvious spelling is slow.

Two sets with the same meaning. `plain()` is torch's own operators: for GPUs, bf16 and torch.compile.
`eager_cpu()` is for fp32 on a CPU, where torch has no fused kernel for RMSNorm and a rotary embedding
costs six passes over memory; each is one autograd function with a hand-written backward. Its matrix
products can go through oneDNN, which torch brings too: MKL, torch's own choice, keeps its AVX-512 kernels
for Intel's processors, oneDNN does not (up to 2x on a Zen 5 core).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sweepctl.train.grouped import Grouped, by_loop, by_torch


class Linear(Protocol):
    """x [N, in], weight [out, in], bias [out] -> x weight^T + bias [N, out]."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, /) -> Tensor: ...


@dataclass(frozen=True)
class Ops:
    """One set of operations on x [..., d]."""

    linear: Linear
    """Matrix products."""
    rms_norm: Callable[[Tensor, float], Tensor]
    """x and epsilon -> x over its root mean square."""
    rotate: Callable[[Tensor, Tensor], Tensor]
    """Rotary positions: turns the queries and keys in qkv [B, T, 3, H, head], and may overwrite it."""
    turn: Callable[[Tensor, Tensor], Tensor]
    """The same for either on its own, [B, T, H, head]."""
    relu2: Callable[[Tensor], Tensor]
    """The square of what is above 0."""
    grouped: Grouped
    """The products of experts."""


def plain() -> Ops:
    """Torch's operators, as autocast, compile and every device take them."""
    return Ops(F.linear, _rms_norm, _rotate, _turn, lambda x: F.relu(x).square(), by_torch)


def eager_cpu(gemm: str) -> Ops:
    """Hand-written autograd functions; `gemm` is 'torch' or 'onednn'."""
    linear = _OneDnnLinear.apply if gemm == "onednn" else F.linear
    grouped = by_loop(_onednn if gemm == "onednn" else None)
    return Ops(linear, _FusedRMSNorm.apply, _InPlaceRotate.apply, _Turn.apply, _Relu2.apply, grouped)


def rotary_table(context: int, head_size: int, base: float) -> Tensor:
    """Cosines and sines [T, head / 2, 2] of the angles t base^(-2 i / head) (Su et al. 2021, section 3.2)."""
    rates = base ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = torch.arange(context, dtype=torch.float64)[:, None] * rates
    return torch.stack((angles.cos(), angles.sin()), dim=-1).to(torch.float32)


def _rms_norm(x: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), eps=eps)


def _rotate(qkv: Tensor, table: Tensor) -> Tensor:
    return torch.cat((_turn(qkv[:, :, :2], table[:, None]), qkv[:, :, 2:]), dim=2)


def _turn(x: Tensor, table: Tensor) -> Tensor:
    cos, sin = table[..., None, :, 0], table[..., None, :, 1]
    even, odd = _pairs(x.float()).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        if grad.shape[1] > x.shape[1]:  # oneDNN is faster with the longer side last
            grad_weight = _product(x.t(), grad.t()).t().contiguous()
        else:
            grad_weight = _product(grad.t(), x.t())
        return _product(grad, weight.t()), grad_weight, grad.sum(0) if ctx.biased else None


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a @ b.T + bias by oneDNN, but for products so small that its overhead outweighs its kernel."""
    if a.shape[0] * a.shape[1] * b.shape[0] < 3_000_000:
        return torch.mm(a, b.t()) if bias is None else torch.addmm(bias, a, b.t())
    return _onednn(a, b, bias)


def _onednn(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return product


class _FusedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = torch.rsqrt(norm.square_().mul_(1 / x.shape[-1]).add_(eps))
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, inverse = ctx.saved_tensors
        along = (grad * y).mean(-1, keepdim=True)
        return torch.addcmul(grad, y, along, value=-1).mul_(inverse), None


class _InPlaceRotate(torch.autograd.Function):
    """Turns queries and keys in the projection's own output; the input is not used again."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, table: Tensor) -> Tensor:
        ctx.rotations = torch.view_as_complex(table)[:, None, None, :]
        _turn_in_place(qkv, ctx.rotations)
        ctx.mark_dirty(qkv)
        return qkv

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous()
        _turn_in_place(grad, ctx.rotations.conj())
        return grad, None


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor) -> Tensor:
        ctx.rotations = torch.view_as_complex(table)[:, None, :]
        return _turn_as_complex(x, ctx.rotations)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        return _turn_as_complex(grad, ctx.rotations.conj()), None


def _turn_as_complex(x: Tensor, rotations: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(_pairs(x)) * rotations).flatten(-2)


def _turn_in_place(qkv: Tensor, rotations: Tensor) -> None:
    torch.view_as_complex(_pairs(qkv[:, :, :2])).mul_(rotations)


def _pairs(x: Tensor) -> Tensor:
    return x.view(*x.shape[:-1], -1, 2)


class _Relu2(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = torch.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return torch.mul(grad, positive).mul_(2)
