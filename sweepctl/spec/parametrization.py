"""How initialization, learning rates and multipliers depend on the shape: one table a parametrization.

The tables are in `spec/parametrizations/`, written as their papers print them: a formula for every class of
tensors and every column. This module gives the formulas their numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from sweepctl.errors import InvalidValue
from sweepctl.spec.expression import evaluate
from sweepctl.spec.model import Shape
from sweepctl.spec.parametrizations import TABLES
from sweepctl.spec.parametrizations.table import COLUMNS, Rule
from sweepctl.spec.weights import Weight, WeightClass


@dataclass(frozen=True, slots=True)
class Row:
    """What one tensor gets."""

    init_std: float
    """Standard deviation of the initialization."""
    lr: float = 1.0
    """Multiplier on the learning rate of Adam and Lion."""
    lr_sgd: float = 1.0
    """Multiplier on the learning rate of SGD."""
    lr_muon: float = 1.0
    """Multiplier on the learning rate of Muon."""
    forward: float = 1.0
    """Multiplier on the output in the forward pass."""
    weight_decay: float = 1.0
    """Multiplier on weight decay."""
    eps: float = 1.0
    """Multiplier on epsilon."""


@dataclass(frozen=True, slots=True)
class Parametrization:
    """A table by name, and the numbers its formulas leave open."""

    name: str
    """A module of `spec.parametrizations`."""
    init_std: float
    """s of the formulas."""
    base_d_model: int
    """Width at which every multiplier is 1."""
    base_n_layers: int
    """Depth at which a depth rule changes nothing."""
    depth_exponent: float
    """Of the depth rule of mup and completep; 0 is none."""
    embedding_multiplier: float
    """On the embedding's output."""
    output_multiplier: float
    """On logits."""
    attention_scale: Literal["inverse_sqrt", "inverse"]
    """Of query-key products, by the head size."""
    zero_head: bool
    """Initializes the head to zero."""
    zero_query: bool
    """Initializes the queries of softmax layers to zero, which makes their first attention uniform."""
    init: Literal["normal", "truncated_normal"] = "normal"
    """truncated_normal clips a normal distribution at two of its standard deviations and leaves it at that,
    as the configurations of Cerebras-GPT do: what is drawn has 0.880 of init_std."""
    residual_multiplier: float = 1.0
    """On the outputs of residual branches."""
    sp_head: bool = False
    """Draws the head at 1 / sqrt(d) (Lingle 2024, section 4.2.6: the initialization alone, as its code has
    it)."""

    def __post_init__(self) -> None:
        if self.name not in TABLES:
            raise InvalidValue("name", self.name, "one of " + ", ".join(TABLES))
        for key in ("base_d_model", "base_n_layers"):
            if getattr(self, key) < 1:
                raise InvalidValue(key, getattr(self, key), "at least 1")
        for key in ("init_std", "embedding_multiplier", "output_multiplier", "residual_multiplier"):
            if getattr(self, key) <= 0:
                raise InvalidValue(key, getattr(self, key), "above 0")
        if not 0 <= self.depth_exponent <= 1:
            raise InvalidValue("depth_exponent", self.depth_exponent, "between 0 and 1")
        if self.sp_head and self.zero_head:
            raise InvalidValue("sp_head", self.sp_head, "false where zero_head is true")

    @property
    def rules(self) -> dict[WeightClass, Rule]:
        """The table: formulas by class."""
        return _rules(self.name, self.zero_head, self.sp_head)

    def row(self, weight: Weight, shape: Shape) -> Row:
        """The numbers of one tensor of a model of this shape."""
        return _row(self, weight.kind, weight.fan_in, weight.fan_out, shape)

    def multiplier(self, kind: WeightClass, shape: Shape) -> float:
        """What the class's output is multiplied by in the forward pass: of a residual output, the branch."""
        return evaluate(self.rules[kind].forward, self.names(shape))

    def logit_multiplier(self, shape: Shape, tied: bool) -> float:
        """What logits are multiplied by. A tied head has the embedding's learning rate, so a table that
        scales the head's own rate has another multiplier for it."""
        head = self.rules["head"]
        return evaluate(head.tied if tied and head.tied else head.forward, self.names(shape))

    def attention_multiplier(self, shape: Shape) -> float:
        """The factor on query-key products."""
        head = shape.head_size
        return 1 / head if self.attention_scale == "inverse" else 1 / math.sqrt(head)

    def names(self, shape: Shape) -> dict[str, float]:
        """What the formulas may use, but for a tensor's fans."""
        a = self.depth_exponent
        return {
            "s": self.init_std,
            "m": shape.d_model / self.base_d_model,
            "m_L": shape.n_layers / self.base_n_layers if a else 1.0,
            "a": a if a else 1.0,
            "d": shape.d_model,
            "L": shape.n_layers,
            "deep": 1.0 if a else 1 / math.sqrt(2 * shape.n_layers),
            "alpha_in": self.embedding_multiplier,
            "alpha_res": self.residual_multiplier,
            "alpha_out": self.output_multiplier,
        }


@lru_cache
def _rules(name: str, zero_head: bool, sp_head: bool) -> dict[WeightClass, Rule]:
    table = TABLES[name]
    if zero_head or sp_head:
        table = {**table, "head": replace(table["head"], init_std="0" if zero_head else "1 / sqrt(fan_in)")}
    return table


@lru_cache(maxsize=65536)
def _row(parametrization: Parametrization, kind: WeightClass, fan_in: int, fan_out: int, shape: Shape) -> Row:
    rule = parametrization.rules[kind]
    names = {**parametrization.names(shape), "fan_in": fan_in, "fan_out": fan_out}
    return Row(**{column: float(evaluate(getattr(rule, column), names)) for column in COLUMNS})
