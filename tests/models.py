"""Models and parametrizations for tests that care about a few of their fields."""

from __future__ import annotations

from typing import Any

from sweepctl.spec.model import Architecture
from sweepctl.spec.parametrization import Parametrization


def some_architecture(
    activation: str = "swiglu", norm: str = "rmsnorm", gains: bool | str = False, **changes: Any
) -> Architecture:
    rest = {"tied": False, "rope_base": 10000.0, "norm_eps": 1e-6}
    return Architecture(activation, norm, gains, **{**rest, **changes})  # type: ignore[arg-type]


def some_parametrization(name: str = "standard", init_std: float = 0.02, **changes: Any) -> Parametrization:
    rest = {
        "base_d_model": 256,
        "base_n_layers": 4,
        "depth_exponent": 0.0,
        "embedding_multiplier": 1.0,
        "output_multiplier": 1.0,
        "attention_scale": "inverse_sqrt",
        "zero_head": False,
        "zero_query": False,
    }
    return Parametrization(name, init_std, **{**rest, **changes})
