"""Parameters and FLOPs under the conventions the field uses, each by its name.

Counts of parameters N:

- `total`: every parameter;
- `non_embedding`: without the input embeddings and without the output matrix (Kaplan et al. 2020);
- `with_head`: `non_embedding` plus the output matrix, which multiplies every token (tied or not);
- `active`: what one token passes through, embeddings included; `total` without idle experts;
- `active_non_embedding`: `non_embedding` without idle experts.

Counts of training FLOPs a token:

- `six_n`: 6 N, with N the chosen count of parameters without idle experts (Kaplan et al. 2020, section 2.1);
- `six_n_attention`: 6 N + 12 L H Q T with the full attention square (Chowdhery et al. 2022, appendix B);
  of a linear layer, what its chunks multiply (rounded up to whole FLOPs where the context is not a multiple
  of them);
- `exact`: every matrix product of the forward and backward pass, as torch counts them under the math
  attention backend: 6 a matrix element used (output matrix included, embedding lookup not) + attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweepctl.spec.model import Architecture, Mixer, Shape
from sweepctl.spec.weights import VECTORS, Weight, block_weights, distinct_weights, mixers

ParameterCount = Literal["total", "non_embedding", "with_head", "active", "active_non_embedding"]
FlopCount = Literal["six_n", "six_n_attention", "exact"]
PARAMETER_COUNTS: tuple[ParameterCount, ...] = (
    "total", "non_embedding", "with_head", "active", "active_non_embedding",
)  # fmt: skip
FLOP_COUNTS: tuple[FlopCount, ...] = ("six_n", "six_n_attention", "exact")


@dataclass(frozen=True, slots=True)
class Accounting:
    """Which counts a study sizes its budgets and fits its laws with."""

    parameters: ParameterCount = "non_embedding"
    """The count that is N."""
    flops: FlopCount = "six_n"
    """The count that is C."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Every count of one rung: parameters, and training FLOPs a token at the study's context."""

    total: int
    """Parameters, all of them."""
    non_embedding: int
    """Without the input embeddings and the output matrix."""
    with_head: int
    """The same with the output matrix."""
    active: int
    """What one token passes through."""
    matrix_elements: int
    """Elements of the matrices that multiply a token."""
    attention_flops_per_token: int
    """Of the products of attention alone."""
    idle: int = 0
    """Parameters of experts that a token is not sent to."""
    decode_flops_per_token: int | None = None
    """Of one token at the end of a context whose keys are kept; None of a plan from before they were
    counted."""

    @property
    def active_non_embedding(self) -> int:
        return self.non_embedding - self.idle

    def parameters(self, convention: ParameterCount) -> int:
        return int(getattr(self, convention))

    def flops_per_token(self, accounting: Accounting) -> int:
        """Training FLOPs a token (forward and backward) under the accounting's convention."""
        if accounting.flops == "exact":
            return 6 * self.matrix_elements + self.attention_flops_per_token
        chosen = accounting.parameters
        six_n = 6 * (self.parameters(chosen) - (0 if chosen.startswith("active") else self.idle))
        return six_n if accounting.flops == "six_n" else six_n + self.attention_flops_per_token

    @property
    def exact_flops_per_token(self) -> int:
        return self.flops_per_token(Accounting(flops="exact"))

    @property
    def forward_flops_per_token(self) -> int:
        """Matrix products of a forward pass over whole sequences: a third of training's."""
        return self.exact_flops_per_token // 3


def hidden_parameters(shape: Shape, model: Architecture) -> int:
    """Elements of the matrices inside the blocks that one token passes through; for a dense decoder with
    as many keys as queries 4 d^2 + (2 or 3) d d_ff a layer."""
    return sum(
        layers * sum(_used(w) for w in block_weights(shape, model, mixer) if w.kind not in VECTORS)
        for mixer, layers in mixers(shape, model).items()
    )


def count(shape: Shape, model: Architecture, vocab_size: int, context: int) -> Counts:
    """All counts of a decoder of this shape, for sequences of `context` tokens."""
    every = distinct_weights(shape, model, vocab_size, context)
    total = sum(n * weight.elements for weight, n in every)
    outside = sum(n * w.elements for w, n in every if w.name in ("embedding", "positions", "head"))
    idle = sum(n * (weight.elements - _used(weight)) for weight, n in every)
    table = vocab_size * shape.d_model
    matrix_elements = hidden_parameters(shape, model) + table
    layers = mixers(shape, model).items()
    mixing = sum(n * _mixing_flops(shape, model, mixer, context) for mixer, n in layers)  # of a sequence
    decoding = sum(n * _decoding_flops(shape, mixer, context) for mixer, n in layers)
    return Counts(
        total=total,
        non_embedding=total - outside,
        with_head=total - outside + table,
        active=total - idle,
        matrix_elements=matrix_elements,
        attention_flops_per_token=-(-3 * mixing // context),
        idle=idle,
        decode_flops_per_token=2 * matrix_elements + decoding,
    )


def _used(weight: Weight) -> int:
    return round(weight.elements * weight.used)


def _mixing_flops(shape: Shape, model: Architecture, mixer: Mixer, context: int) -> int:
    """Forward FLOPs of the products between tokens in one layer, of a whole sequence of T tokens.

    Softmax: the full square, 2 products of 2 T d a token. Linear: 2 products of 2 C d within a chunk of C
    tokens, and where there is more than one chunk 2 products of 2 d head_size with the state; the last chunk
    is filled up.
    """
    if mixer == "softmax":
        return 4 * context * shape.d_model * context
    chunks, chunk = model.linear_chunks(context)
    state = shape.head_size if chunks > 1 else 0
    return 4 * (chunk + state) * shape.d_model * chunks * chunk


def _decoding_flops(shape: Shape, mixer: Mixer, context: int) -> int:
    """Forward FLOPs of the same products for a sequence's last token alone: keys and values of all `context`
    tokens are there, or the state, to which it adds its own."""
    return 4 * shape.d_model * (context if mixer == "softmax" else shape.head_size)
