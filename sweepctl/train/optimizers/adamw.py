"""AdamW: torch's own, fused."""

from __future__ import annotations

import torch

from sweepctl.spec.optimizers.adamw import Adam
from sweepctl.spec.weights import Weight
from sweepctl.train.optimizers.group import Assigned, grouped


def members(spec: Adam, tensors: list[Assigned]) -> list[torch.optim.Optimizer]:
    """AdamW over all of these tensors."""
    groups = grouped(tensors, lambda tensor: {"eps": tensor.terms.eps})
    betas = (spec.beta1, spec.beta2)
    if not groups:  # a process may own none of them
        return []
    return [torch.optim.AdamW(groups, lr=spec.lr, betas=betas, eps=spec.eps, weight_decay=0.0, fused=True)]


def state_keys(spec: Adam, weight: Weight) -> set[str]:
    """Both moments, and the updates that they have seen."""
    return {"exp_avg", "exp_avg_sq", "step"}
