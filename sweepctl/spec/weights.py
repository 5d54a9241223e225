"""Every tensor of a model by name: its class, its size and its fans. Parameters are counted, initialized and
given their learning rates by this one list; the torch model is held against it in a test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Literal

from sweepctl.spec.model import Architecture, Mixer, Shape

WeightClass = Literal[
    "embedding", "input", "hidden", "residual_output", "router", "head", "gain", "final_gain", "bias"
]
CLASSES: tuple[WeightClass, ...] = (
    "embedding", "input", "hidden", "residual_output", "router", "head", "gain", "final_gain", "bias",
)  # fmt: skip
"""`input`: what takes vectors whose size does not grow with the width (learned positions are one-hot)."""
VECTORS: tuple[WeightClass, ...] = ("gain", "final_gain", "bias")


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor. Its last two dimensions hold equal blocks stacked along the outputs (queries, keys and
    values; gate and up), a first dimension holds experts."""

    name: str
    """Flat, as `blocks.3.qkv`: what seeds and checkpoints know it by."""
    kind: WeightClass
    """Its class, by which a parametrization's table knows it."""
    size: tuple[int, ...]
    """Its dimensions."""
    fan_in: int
    """Inputs of one block."""
    fan_out: int
    """Outputs of one block."""
    matrices: int = 1
    """How many blocks are stacked."""
    used: float = 1.0
    """The share of it that one token passes through: below 1 for routed experts."""
    queries: int = 0
    """How many of its first rows make the queries of softmax attention."""

    @property
    def elements(self) -> int:
        return prod(self.size)

    @property
    def is_hidden_matrix(self) -> bool:
        """Both sides grow with the width: what Muon orthogonalizes."""
        return self.kind in ("hidden", "residual_output")


@lru_cache(maxsize=256)
def weights(shape: Shape, model: Architecture, vocab_size: int, context: int) -> tuple[Weight, ...]:
    """All tensors of a model, in the order of its layers.

    Raises:
        InvalidValue: the architecture does not fit the shape.
    """
    before, after = _outside(shape, model, vocab_size, context)
    blocks = (
        replace(weight, name=f"blocks.{layer}.{weight.name}")
        for layer in range(shape.n_layers)
        for weight in block_weights(shape, model, model.mixer(layer))
    )
    return (*before, *blocks, *after)


def distinct_weights(
    shape: Shape, model: Architecture, vocab_size: int, context: int
) -> list[tuple[Weight, int]]:
    """Every tensor that is not like one of another layer, and in how many layers it is."""
    before, after = _outside(shape, model, vocab_size, context)
    distinct = [(weight, 1) for weight in (*before, *after)]
    for mixer, layers in mixers(shape, model).items():
        distinct += [(weight, layers) for weight in block_weights(shape, model, mixer)]
    return distinct


def mixers(shape: Shape, model: Architecture) -> dict[Mixer, int]:
    """Mixer -> how many layers have it."""
    rounds, rest = divmod(shape.n_layers, len(model.mixers))
    numbers = {
        mixer: rounds * model.mixers.count(mixer) + model.mixers[:rest].count(mixer) for mixer in model.mixers
    }
    return {mixer: number for mixer, number in numbers.items() if number}


def _outside(
    shape: Shape, model: Architecture, vocab_size: int, context: int
) -> tuple[list[Weight], list[Weight]]:
    """The tensors before the blocks and after them."""
    d = shape.d_model
    before = [Weight("embedding", "embedding", (vocab_size, d), 1, d)]
    if model.positions == "learned":
        before.append(Weight("positions", "input", (context, d), 1, d))
    after = list(_norm("final_norm", d, model, "final_gain"))
    if not model.tied:
        after.append(Weight("head", "head", (vocab_size, d), d, vocab_size))
    return before, after


@lru_cache(maxsize=4096)
def block_weights(shape: Shape, model: Architecture, mixer: Mixer) -> tuple[Weight, ...]:
    """The tensors of one layer with this mixer, named within it."""
    mix = _softmax(shape, model) if mixer == "softmax" else _linear(shape, model)
    mlp = _dense(shape, model) if model.experts is None else _experts(shape, model)
    d = shape.d_model
    return (*_norm("attention_norm", d, model), *mix, *_norm("mlp_norm", d, model), *mlp)


def _softmax(shape: Shape, model: Architecture) -> Iterator[Weight]:
    d, kv = shape.d_model, model.kv_heads(shape) * shape.head_size
    if kv == d:
        yield from _matrix("qkv", "hidden", d, d, model, matrices=3, queries=d)
    else:
        yield from _matrix("q", "hidden", d, d, model, queries=d)
        yield from _matrix("kv", "hidden", d, kv, model, matrices=2)
    if model.qk_norm:
        yield from _norm("query_norm", shape.head_size, model)
        yield from _norm("key_norm", shape.head_size, model)
    yield from _matrix("attention_out", "residual_output", d, d, model)


def _linear(shape: Shape, model: Architecture) -> Iterator[Weight]:
    d, head = shape.d_model, shape.head_size
    yield from _matrix("qkv", "hidden", d, d, model, matrices=3)
    if model.linear_gate == "full":
        yield from _matrix("gate", "hidden", d, d, model)
    elif model.linear_gate == "head_size":
        yield from _matrix("gate_in", "hidden", d, head, model)
        yield from _matrix("gate_out", "input", head, d, model)
    yield from _norm("mixed_norm", d, model)
    yield from _matrix("attention_out", "residual_output", d, d, model)


def _dense(shape: Shape, model: Architecture) -> Iterator[Weight]:
    d, d_ff = shape.d_model, shape.d_ff
    yield from _matrix("mlp_in", "hidden", d, d_ff, model, matrices=model.mlp_matrices - 1)
    yield from _matrix("mlp_out", "residual_output", d_ff, d, model)


def _experts(shape: Shape, model: Architecture) -> Iterator[Weight]:
    """Experts have no biases."""
    assert model.experts is not None
    d, experts, ins = shape.d_model, model.experts, model.mlp_matrices - 1
    d_ff, count, used = experts.d_ff(shape), experts.count, experts.top_k / experts.count
    yield Weight("router", "router", (count, d), d, count)
    yield Weight("experts_in", "hidden", (count, ins * d_ff, d), d, d_ff, ins, used)
    yield Weight("experts_out", "residual_output", (count, d, d_ff), d_ff, d, 1, used)
    if experts.shared:
        wide = experts.shared * d_ff
        yield Weight("shared_in", "hidden", (ins * wide, d), d, wide, ins)
        yield Weight("shared_out", "residual_output", (d, wide), wide, d)


def _matrix(
    name: str,
    kind: WeightClass,
    fan_in: int,
    fan_out: int,
    model: Architecture,
    matrices: int = 1,
    queries: int = 0,
) -> Iterator[Weight]:
    """A matrix, and its bias where the architecture has them."""
    rows = matrices * fan_out
    yield Weight(name, kind, (rows, fan_in), fan_in, fan_out, matrices, queries=queries)
    if model.biases:
        yield Weight(f"{name}_bias", "bias", (rows,), 1, fan_out, matrices)


def _norm(name: str, width: int, model: Architecture, kind: WeightClass = "gain") -> Iterator[Weight]:
    """A norm's gains, and a LayerNorm's bias where the architecture has gains and biases."""
    if not model.gains:
        return
    size = 1 if model.gains == "scalar" else width
    yield Weight(f"{name}.gain", kind, (size,), 1, size)
    if model.biases and model.norm == "layernorm":
        yield Weight(f"{name}.bias", "bias", (width,), 1, width)
