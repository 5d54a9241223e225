"""Products of rows that lie sorted by group with each group's own matrix: what experts multiply.

No loop is over rows. On a GPU torch has one kernel for all groups; on a CPU a loop over the groups writes
into slices of one result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Grouped = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x [M, in] sorted by group, weight [G, out, in], rows of each group [G] -> [M, out]."""
Product = Callable[[Tensor, Tensor], Tensor]
"""a [m, k], b [n, k] -> a @ b.T: a kernel that is faster than torch's once a product is large."""

WORTH = 6_000_000
"""Multiplications a group, on average, from which a `Product` is taken."""
CHUNK = 64
"""A `Product` sees whole chunks of rows only and torch the rest: oneDNN compiles a kernel for every number of
rows, which takes longer than the product itself, and a group's number is another at every step."""


def by_loop(product: Product | None = None) -> Grouped:
    """A loop over the groups; reads their sizes, so a GPU would be waited for."""

    def grouped(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
        large = x.numel() * weight.shape[1] >= WORTH * len(weight)
        products: Tensor = _Loop.apply(x, weight, counts, product if large else None)  # type: ignore[no-untyped-call]
        return products

    return grouped


def by_torch(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Torch's grouped product where it has one, which is for bf16; else a loop. Heeds autocast."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
    if hasattr(F, "grouped_mm") and x.dtype == torch.bfloat16 and _aligned(weight):
        products: Tensor = _Kernel.apply(x, weight, counts)  # type: ignore[no-untyped-call]
        return products
    return _uncompiled_loop(x, weight, counts)


_uncompiled_loop: Grouped = torch.compiler.disable(by_loop())  # type: ignore[no-untyped-call]
"""Sizes read on the way are nothing that torch.compile can follow."""


def _aligned(weight: Tensor) -> bool:
    """The kernel wants rows of whole 16 bytes on either side."""
    return all(size * weight.element_size() % 16 == 0 for size in weight.shape[1:])


class _Loop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, counts: Tensor, product: Product | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sizes, ctx.product = counts.tolist(), product
        out = x.new_empty(len(x), weight.shape[1])
        groups = zip(torch.split(x, ctx.sizes), weight.mT.unbind(), torch.split(out, ctx.sizes), strict=True)
        for rows, matrix, place in groups:
            _multiply(rows, matrix, place, product)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (x, weight), sizes, product = ctx.saved_tensors, ctx.sizes, ctx.product
        grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
        groups = zip(torch.split(grad, sizes), weight.unbind(), torch.split(grad_x, sizes), strict=True)
        for rows, matrix, place in groups:
            _multiply(rows, matrix, place, product)
        pairs = zip(torch.split(grad.t(), sizes, 1), torch.split(x, sizes), grad_weight.unbind(), strict=True)
        for rows, others, place in pairs:
            _contract(rows, others, place, product)
        return grad_x, grad_weight, None, None


def _multiply(a: Tensor, b: Tensor, out: Tensor, product: Product | None) -> None:
    """out = a [rows, k] @ b [k, n]."""
    if product is not None and (whole := len(a) // CHUNK * CHUNK):
        out[:whole] = product(a[:whole], b.t())
        a, out = a[whole:], out[whole:]
    torch.mm(a, b, out=out)


def _contract(a: Tensor, b: Tensor, out: Tensor, product: Product | None) -> None:
    """out = a [m, rows] @ b [rows, n], 0 where there are no rows."""
    if product is None or not (whole := len(b) // CHUNK * CHUNK):
        torch.mm(a, b, out=out)
        return
    out.copy_(product(b[:whole].t(), a[:, :whole]).t())
    out.addmm_(a[:, whole:], b[whole:])


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
        ends = counts.cumsum(0, dtype=torch.int32)
        ctx.save_for_backward(x, weight, counts, ends)
        return F.grouped_mm(x, weight.mT, offs=ends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, counts, ends = ctx.saved_tensors
        grad = grad.contiguous()
        grad_weight = F.grouped_mm(grad.t(), x, offs=ends)
        # Nothing says that the kernel writes the product of a group without rows.
        grad_weight = grad_weight.masked_fill_((counts == 0)[:, None, None], 0.0)
        return F.grouped_mm(grad, weight, offs=ends), grad_weight, None
