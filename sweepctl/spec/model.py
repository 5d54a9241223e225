"""What a decoder is: the shape that a ladder varies and the architecture that stays the same along it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweepctl.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class Shape:
    """One rung's size: widths and depth, in units (not parameters)."""

    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int

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
class Architecture:
    """A pre-norm decoder with rotary positions. Every field is science."""

    activation: Literal["swiglu", "relu2", "gelu"] = "swiglu"
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    gains: bool = False
    tied: bool = False
    rope_base: float = 10000.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("rope_base", "norm_eps"):
            if getattr(self, name) <= 0:
                raise InvalidValue(name, getattr(self, name), "above 0")

    @property
    def mlp_matrices(self) -> int:
        """Matrices of d_model x d_ff in one MLP: the gated one has a third."""
        return 3 if self.activation == "swiglu" else 2
