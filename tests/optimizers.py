"""Optimizers for tests."""

from __future__ import annotations

from typing import Any

from sweepctl.spec.build import build
from sweepctl.spec.optimizers.optimizer import Optimizer

VALUES: dict[str, Any] = {
    "name": "adamw",
    "lr": 1e-3,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "weight_decay_rule": "coupled",
    "clip_norm": 1.0,
    "momentum": 0.95,
    "nesterov": True,
    "muon_scale": "jordan",
    "muon_steps": 5,
    "adamw_lr": None,
}


def optimizer(name: str = "adamw", **changes: Any) -> Any:
    """An optimizer, its keys as here where nothing else is said."""
    raw = {**VALUES, **changes, "name": name}
    return build(Optimizer, Optimizer.own_keys(raw), "optimizer")
