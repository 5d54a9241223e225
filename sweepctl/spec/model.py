"""What a decoder is: the shape that a ladder varies and the architecture that stays the same along it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweepctl.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class Shape:
    """One rung's size: widths and depth, in units (not parameters)."""

    d_model: int
    """Width of the residual stream."""
    n_layers: int
    """Blocks."""
    n_heads: int
    """Query heads of a block."""
    d_ff: int
    """Hidden units of an MLP."""

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layers", "n_heads", "d_ff"):
            if getattr(self, name) < 1:
                raise InvalidValue(name, getattr(self, name), "at least 1")
        if self.d_model % self.n_heads:
            raise InvalidValue("n_heads", self.n_heads, f"a divisor of d_model={self.d_model}")
        if self.head_size % 2:
            raise InvalidValue(
                "n_heads",
                self.n_heads,
                f"such that the head size {self.d_model}/{self.n_heads} is even (RoPE turns pairs)",
            )

    @property
    def head_size(self) -> int:
        return self.d_model // self.n_heads

    @property
    def name(self) -> str:
        """Width x depth, as tables of ladders print it."""
        return f"{self.d_model}x{self.n_layers}"


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts in place of every MLP: top-k of `count` a token, dropless."""

    count: int = 8
    """Routed experts of a layer."""
    top_k: int = 2
    """Of them, how many a token is sent to."""
    shared: int = 0
    """Experts beside them that see every token."""
    d_ff_share: float | None = None
    """An expert's d_ff over the shape's; null shares it out, 1 / (top_k + shared), so that the experts of one
    token have the parameters of the dense MLP."""
    scores: Literal["softmax", "sigmoid"] = "softmax"
    """What the router's outputs go through."""
    normalize: bool = True
    """Divides the gates of a token by their sum, but for top-1, where only the score itself teaches the
    router."""
    balance_loss: float = 0.01
    """Coefficient of the load-balance loss."""
    bias_rate: float = 0.0
    """Step of the loss-free rule, which moves each expert's selection bias against its load."""

    def __post_init__(self) -> None:
        if self.count < 2:
            raise InvalidValue("count", self.count, "at least 2")
        if not 1 <= self.top_k <= self.count:
            raise InvalidValue("top_k", self.top_k, f"at least 1 and at most count={self.count}")
        for key in ("shared", "balance_loss", "bias_rate"):
            if getattr(self, key) < 0:
                raise InvalidValue(key, getattr(self, key), "at least 0")
        if self.d_ff_share is not None and self.d_ff_share <= 0:
            raise InvalidValue("d_ff_share", self.d_ff_share, "above 0, or null for 1 / (top_k + shared)")

    def d_ff(self, shape: Shape) -> int:
        """Hidden units of one expert."""
        share = self.d_ff_share or 1 / (self.top_k + self.shared)
        return max(1, round(share * shape.d_ff))


Mixer = Literal["softmax", "linear"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A pre-norm decoder. Every field is science."""

    activation: Literal["swiglu", "relu2", "gelu", "relu"]
    """Of the MLP."""
    norm: Literal["rmsnorm", "layernorm"]
    """Before every branch and before the head."""
    gains: bool | Literal["scalar"]
    """None, true for a vector, or one scalar a norm."""
    tied: bool
    """Whether the head is the embedding."""
    rope_base: float
    """Of the rotary embedding."""
    norm_eps: float
    """Added to the mean square in a norm."""
    biases: bool = False
    """In every projection."""
    positions: Literal["rope", "learned", "none"] = "rope"
    """How a token knows its place."""
    queries_per_kv: int = 1
    """Queries that share a key and a value (GQA)."""
    qk_norm: bool = False
    """Norms of queries and keys, a head each."""
    mixers: tuple[Mixer, ...] = ("softmax",)
    """Repeated over the layers: seven times linear and then softmax is a 7:1 hybrid."""
    linear_gate: Literal["full", "head_size", "none"] = "full"
    """The output gate of a linear (lightning) layer has full rank, the head's size, or is none."""
    linear_chunk: int = 64
    """Tokens of the chunks in which a linear layer works."""
    experts: Experts | None = None
    """In place of every MLP; null for dense MLPs."""

    def __post_init__(self) -> None:
        for name in ("rope_base", "norm_eps"):
            if getattr(self, name) <= 0:
                raise InvalidValue(name, getattr(self, name), "above 0")
        for name in ("queries_per_kv", "linear_chunk"):
            if getattr(self, name) < 1:
                raise InvalidValue(name, getattr(self, name), "at least 1")
        if not self.mixers:
            raise InvalidValue("mixers", [], "a list with at least one of softmax and linear")

    @property
    def mlp_matrices(self) -> int:
        """Matrices of d_model x d_ff in one MLP: the gated one has a third."""
        return 3 if self.activation == "swiglu" else 2

    def mixer(self, layer: int) -> Mixer:
        """What mixes tokens in this layer."""
        return self.mixers[layer % len(self.mixers)]

    def linear_chunks(self, length: int) -> tuple[int, int]:
        """How many chunks a linear layer cuts a sequence of so many tokens into, and the tokens of each: as
        equal as can be, so that the last one is filled up with as little as can be."""
        chunks = -(-length // self.linear_chunk)
        return chunks, -(-length // chunks)

    def kv_heads(self, shape: Shape) -> int:
        """Heads of keys and values.

        Raises:
            InvalidValue: the shape's heads cannot be shared out evenly.
        """
        if shape.n_heads % self.queries_per_kv:
            raise InvalidValue(
                "model.queries_per_kv",
                self.queries_per_kv,
                f"a divisor of the {shape.n_heads} heads of rung {shape.name}",
            )
        return shape.n_heads // self.queries_per_kv
