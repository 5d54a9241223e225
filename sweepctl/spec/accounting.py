"""Parameters and FLOPs under the conventions the field uses, each by its name.

Counts of parameters N:

- `total`: every parameter;
- `non_embedding`: without the input embedding and without the output matrix (Kaplan et al. 2020);
- `with_head`: `non_embedding` plus the output matrix, which multiplies every token (tied or not);
- `active`: what one token passes through, embeddings included; equal to `total` for a dense model.

Counts of training FLOPs a token:

- `six_n`: 6 N, with N the chosen count of parameters (Kaplan et al. 2020, section 2.1);
- `six_n_attention`: 6 N + 12 L H Q T with the full attention square (Chowdhery et al. 2022, appendix B);
- `exact`: every matrix product of the forward and backward pass, as torch counts them under the math
  attention backend: 6 a matrix element (output matrix included, embedding lookup not) + 12 L d T.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweepctl.spec.model import Architecture, Shape

ParameterCount = Literal["total", "non_embedding", "with_head", "active"]
FlopCount = Literal["six_n", "six_n_attention", "exact"]
PARAMETER_COUNTS: tuple[ParameterCount, ...] = ("total", "non_embedding", "with_head", "active")
FLOP_COUNTS: tuple[FlopCount, ...] = ("six_n", "six_n_attention", "exact")


@dataclass(frozen=True, slots=True)
class Accounting:
    """Which counts a study sizes its budgets and fits its laws with."""

    parameters: ParameterCount = "non_embedding"
    flops: FlopCount = "six_n"


@dataclass(frozen=True, slots=True)
class Counts:
    """Every count of one rung: parameters, and training FLOPs a token at the study's context."""

    total: int
    non_embedding: int
    with_head: int
    active: int
    matrix_elements: int
    attention_flops_per_token: int

    def parameters(self, convention: ParameterCount) -> int:
        return int(getattr(self, convention))

    def flops_per_token(self, accounting: Accounting) -> int:
        """Training FLOPs a token (forward and backward) under the accounting's convention."""
        if accounting.flops == "exact":
            return 6 * self.matrix_elements + self.attention_flops_per_token
        six_n = 6 * self.parameters(accounting.parameters)
        return six_n if accounting.flops == "six_n" else six_n + self.attention_flops_per_token

    @property
    def exact_flops_per_token(self) -> int:
        return self.flops_per_token(Accounting(flops="exact"))


def hidden_parameters(shape: Shape, model: Architecture) -> int:
    """Elements of the matrices inside the blocks: 4 d^2 + (2 or 3) d d_ff a layer."""
    d = shape.d_model
    return shape.n_layers * (4 * d * d + model.mlp_matrices * d * shape.d_ff)


def count(shape: Shape, model: Architecture, vocab_size: int, context: int) -> Counts:
    """All counts of a decoder of this shape, for sequences of `context` tokens."""
    hidden = hidden_parameters(shape, model)
    norms = _norm_parameters(shape, model)
    table = vocab_size * shape.d_model
    total = hidden + norms + (table if model.tied else 2 * table)
    return Counts(
        total=total,
        non_embedding=hidden + norms,
        with_head=hidden + norms + table,
        active=total,
        matrix_elements=hidden + table,
        attention_flops_per_token=12 * shape.n_layers * shape.d_model * context,
    )


def _norm_parameters(shape: Shape, model: Architecture) -> int:
    return (2 * shape.n_layers + 1) * shape.d_model if model.gains else 0
