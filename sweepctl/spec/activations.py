"""What the backward pass needs of a forward pass, in bytes, counted from the architecture alone.

The count is of what autograd keeps of the operations of `train` under torch's own operators, tensor by
tensor; tests hold it against what it really keeps. Compiled, a model keeps no more: elementwise operations
are computed anew. Sizes are a token's, unless they are said to be a sequence's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from sweepctl.spec.model import Architecture, Mixer, Shape
from sweepctl.spec.weights import mixers

WIDE = 4
"""Bytes of fp32: residual stream, statistics, routing, and of what a norm takes in."""
INDEX = 8
"""Bytes of a token, and of an index."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Of one sequence, in bytes."""

    by_block: Mapping[Mixer, int]
    """What a block of this mixer keeps, its input included."""
    layers: Mapping[Mixer, int]
    """How many blocks have this mixer."""
    block_input: int
    """The residual stream between two blocks."""
    outside: int
    """What is kept before and after the blocks, but for logits."""

    def total(self, recomputes: bool) -> int:
        """All of it at its highest: of blocks that are computed anew their inputs, and one of them whole."""
        if recomputes:
            inputs = self.block_input * sum(self.layers.values())
            return self.outside + inputs + max(self.by_block.values())
        return self.outside + sum(self.by_block[mixer] * number for mixer, number in self.layers.items())


@lru_cache(maxsize=1024)
def kept(shape: Shape, model: Architecture, context: int, autocast: bool, fused: bool = True) -> Kept:
    """What a training pass over one sequence of `context` tokens keeps; with `autocast` matrix products are
    in bf16, and without a `fused` kernel softmax attention writes its scores out."""
    counting = _Counting(shape, model, context, autocast, fused)
    layers = mixers(shape, model)
    return Kept(
        {mixer: round(context * counting.block(mixer)) for mixer in layers},
        layers,
        context * WIDE * shape.d_model,
        round(context * counting.outside()),
    )


@dataclass(frozen=True, slots=True)
class _Counting:
    """Bytes a token of each part."""

    shape: Shape
    model: Architecture
    context: int
    autocast: bool
    fused: bool

    @property
    def narrow(self) -> int:
        """Bytes of what a matrix product takes in and gives."""
        return 2 if self.autocast else WIDE

    def outside(self) -> float:
        """Tokens and targets, the last norm, what the head takes in."""
        return 2 * INDEX + self._norm(self.shape.d_model) + self._input(1)

    def block(self, mixer: Mixer) -> float:
        """Both branches, with a norm each."""
        mixed = self._softmax() if mixer == "softmax" else self._linear()
        mlp = self._mlp() if self.model.experts is None else self._experts()
        return 2 * self._norm(self.shape.d_model) + mixed + mlp

    def _norm(self, width: int, vectors: int = 1) -> float:
        """What a norm takes in, in fp32, its statistics, and before gains that are no part of its kernel what
        it gives."""
        model = self.model
        statistics = 2 if model.norm == "layernorm" else 1
        apart = model.gains == "scalar" or (model.gains and model.norm == "rmsnorm")
        return WIDE * vectors * (width * (2 if apart else 1) + statistics)

    def _input(self, products: int) -> int:
        """A norm's output as so many matrix products take it in: autocast makes a copy for each."""
        return self.narrow * self.shape.d_model * (products if self.autocast else 1)

    def _softmax(self) -> float:
        shape, model = self.shape, self.model
        d, kv = shape.d_model, model.kv_heads(shape) * shape.head_size
        grouped = kv < d
        total: float = self._input(2 if grouped else 1)
        if not self.fused:  # queries, keys and values of every head, and the softmax of the scores
            total += self.narrow * (3 * d + shape.n_heads * self.context)
        if not model.qk_norm and self.fused:
            total += self.narrow * (d + 2 * kv)
            if grouped and model.positions == "rope":  # values hold on to the keys before their turn
                total += self.narrow * kv
        elif model.qk_norm:
            norms = self._norm(shape.head_size, shape.n_heads) + self._norm(
                shape.head_size, model.kv_heads(shape)
            )
            # Queries and keys after their norm, and values, which hold on to what they are a part of.
            total += norms + self.narrow * (d + kv)
            total += self.narrow * (2 * kv if grouped else 3 * d) - (0 if self.autocast else self._twice())
        return total + WIDE * shape.n_heads + self.narrow * d

    def _twice(self) -> float:
        """In fp32 what the norms of queries and keys take in is the very tensor that values are a part of."""
        shape, model = self.shape, self.model
        kv = model.kv_heads(shape) * shape.head_size
        return WIDE * (kv if kv < shape.d_model else 2 * shape.d_model)

    def _linear(self) -> float:
        shape, model, d = self.shape, self.model, self.shape.d_model
        chunks, chunk = model.linear_chunks(self.context)
        filled = chunks * chunk / self.context
        total: float = self._input(1 if model.linear_gate == "none" else 2)
        total += self.narrow * 3 * d
        mixed: float = 3 * d + shape.n_heads * chunk
        if chunks > 1:  # keys, values and queries of the states, and the states
            mixed += 3 * d + d * shape.head_size / chunk
        total += self.narrow * filled * mixed + self._norm(d)
        if model.linear_gate == "head_size":
            total += self.narrow * shape.head_size
        if model.linear_gate != "none":
            total += (self.narrow + (WIDE if self._wide_norm else self.narrow)) * d
        return total + self.narrow * d

    @property
    def _wide_norm(self) -> bool:
        """Whether the norm over what was mixed gives fp32."""
        return not self.autocast or bool(self.model.gains) or self.model.norm == "layernorm"

    def _mlp(self) -> float:
        return self._input(1) + self._activation(self.shape.d_ff)

    def _activation(self, d_ff: float) -> float:
        """Before and after the activation."""
        widths = {"swiglu": 4, "gelu": 2, "relu2": 2, "relu": 1}
        return self.narrow * d_ff * widths[self.model.activation]

    def _experts(self) -> float:
        """The router sees fp32; pairs of a token and its expert are rows."""
        assert self.model.experts is not None
        experts, d = self.model.experts, self.shape.d_model
        k, d_ff = experts.top_k, experts.d_ff(self.shape)
        routing: float = WIDE * d + WIDE * (experts.count + 2) + (INDEX + WIDE) * k
        routing += WIDE * experts.count / self.context
        pairs = k * (2 * self.narrow * d + self._activation(d_ff) + 2 * INDEX + self.narrow)
        shared = self._activation(experts.shared * d_ff)
        if experts.shared and self.autocast:
            shared += self.narrow * d
        return routing + pairs + shared
