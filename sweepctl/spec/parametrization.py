"""Parametrizations as the tables the papers print: parameter class -> initialization, rates, multipliers.

With m = d_model / base_d_model and m_L = n_layers / base_n_layers:

| class           | standard (GPT-2)  | mup                                                      |
| --------------- | ----------------- | -------------------------------------------------------- |
| embedding       | std s             | std s, output x embedding_multiplier                     |
| hidden          | std s             | std s / sqrt(m), LR / m and x m_L^(a - 1)                |
| residual_output | std s / sqrt(2 L) | std as hidden (/ sqrt(2 L) where a = 0), branch x m_L^-a |
| head            | std s             | std s, logits x output_multiplier / m                    |
| gain            | LR                | LR x m_L^(a - 1) inside blocks                           |

The width rule is Cerebras-GPT's table (Dey et al. 2023, arXiv 2304.03208, table 14, after Yang et al. 2022);
the depth rule with exponent a is CompleteP's (Dey et al. 2025, arXiv 2505.01618, table 1): a = 1 keeps the
change of every block in proportion, a = 0 turns the rule off (m_L is then 1 everywhere).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sweepctl.errors import InvalidValue
from sweepctl.spec.model import Shape

ParameterClass = Literal["embedding", "hidden", "residual_output", "head", "gain", "final_gain"]
CLASSES: tuple[ParameterClass, ...] = (
    "embedding", "hidden", "residual_output", "head", "gain", "final_gain",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """What one parameter class gets."""

    init_std: float
    lr: float = 1.0
    forward: float = 1.0
    weight_decay: float = 1.0


@dataclass(frozen=True, slots=True)
class Parametrization:
    """How initialization, learning rates and multipliers depend on the shape."""

    name: Literal["standard", "mup"] = "standard"
    init_std: float = 0.02
    base_d_model: int = 256
    base_n_layers: int = 4
    depth_exponent: float = 0.0
    embedding_multiplier: float = 1.0
    output_multiplier: float = 1.0
    attention_scale: Literal["inverse_sqrt", "inverse"] = "inverse_sqrt"
    zero_head: bool = False
    zero_query: bool = False

    def __post_init__(self) -> None:
        for key in ("base_d_model", "base_n_layers"):
            if getattr(self, key) < 1:
                raise InvalidValue(key, getattr(self, key), "at least 1")
        for key in ("init_std", "embedding_multiplier", "output_multiplier"):
            if getattr(self, key) <= 0:
                raise InvalidValue(key, getattr(self, key), "above 0")
        if not 0 <= self.depth_exponent <= 1:
            raise InvalidValue("depth_exponent", self.depth_exponent, "between 0 and 1")

    def table(self, shape: Shape) -> dict[ParameterClass, Row]:
        """The paper's table with this shape's numbers."""
        s, deep = self.init_std, 1 / math.sqrt(2 * shape.n_layers)
        head_std = 0.0 if self.zero_head else s
        if self.name == "standard":
            return {
                "embedding": Row(s, forward=self.embedding_multiplier),
                "hidden": Row(s),
                "residual_output": Row(s * deep),
                "head": Row(head_std, forward=self.output_multiplier),
                "gain": Row(0.0, weight_decay=0.0),
                "final_gain": Row(0.0, weight_decay=0.0),
            }
        m, a = shape.d_model / self.base_d_model, self.depth_exponent
        m_depth = shape.n_layers / self.base_n_layers if a else 1.0
        hidden_std, depth_lr = s / math.sqrt(m), m_depth ** (a - 1) if a else 1.0
        return {
            "embedding": Row(s, forward=self.embedding_multiplier),
            "hidden": Row(hidden_std, lr=depth_lr / m),
            "residual_output": Row(
                hidden_std if a else hidden_std * deep, lr=depth_lr / m, forward=m_depth**-a
            ),
            "head": Row(head_std, forward=self.output_multiplier / m),
            "gain": Row(0.0, lr=depth_lr, weight_decay=0.0),
            "final_gain": Row(0.0, weight_decay=0.0),
        }

    def attention_multiplier(self, shape: Shape) -> float:
        """The factor on query-key products."""
        head = shape.head_size
        return 1 / head if self.attention_scale == "inverse" else 1 / math.sqrt(head)
