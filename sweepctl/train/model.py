"""A compact decoder: pre-norm, rotary positions, one fused matrix for queries, keys and values."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweepctl.spec.hashing import key
from sweepctl.spec.model import Architecture, Shape
from sweepctl.spec.parametrization import ParameterClass, Parametrization
from sweepctl.train.ops import Ops, rotary_table


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream with the parametrization's multiplier."""

    def __init__(self, shape: Shape, model: Architecture, scale: float, branch: float, ops: Ops) -> None:
        super().__init__()
        d = shape.d_model
        self.shape, self.model, self.ops = shape, model, ops
        self.scale, self.branch = scale, branch
        inner = shape.d_ff * (2 if model.activation == "swiglu" else 1)
        self.attention_norm = Norm(d, model, ops)
        self.qkv = nn.Parameter(torch.empty(3 * d, d))
        self.attention_out = nn.Parameter(torch.empty(d, d))
        self.mlp_norm = Norm(d, model, ops)
        self.mlp_in = nn.Parameter(torch.empty(inner, d))
        self.mlp_out = nn.Parameter(torch.empty(d, shape.d_ff))

    def forward(self, x: Tensor, rotations: Tensor, rows: int) -> Tensor:
        """x [rows * T, d] -> the same shape."""
        x = torch.add(x, self._attend(self.attention_norm(x), rotations, rows), alpha=self.branch)
        return torch.add(x, self._mlp(self.mlp_norm(x)), alpha=self.branch)

    def _attend(self, x: Tensor, rotations: Tensor, rows: int) -> Tensor:
        heads, size = self.shape.n_heads, self.shape.head_size
        qkv = self.ops.linear(x, self.qkv).view(rows, -1, 3, heads, size)
        q, k, v = self.ops.rotate(qkv, rotations).unbind(2)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, scale=self.scale
        )
        return self.ops.linear(y.transpose(1, 2).reshape(x.shape), self.attention_out)

    def _mlp(self, x: Tensor) -> Tensor:
        hidden = self.ops.linear(x, self.mlp_in)
        if self.model.activation == "swiglu":
            gate, up = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * up
        elif self.model.activation == "relu2":
            hidden = self.ops.relu2(hidden)
        else:
            hidden = F.gelu(hidden, approximate="tanh")
        return self.ops.linear(hidden, self.mlp_out)


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last dimension, with a vector of gains or none."""

    def __init__(self, width: int, model: Architecture, ops: Ops) -> None:
        super().__init__()
        self.kind, self.eps, self.ops = model.norm, model.norm_eps, ops
        self.gain = nn.Parameter(torch.empty(width)) if model.gains else None

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layernorm":
            return F.layer_norm(x, (x.shape[-1],), self.gain, None, self.eps)
        y = self.ops.rms_norm(x, self.eps)
        return y if self.gain is None else y * self.gain


class Decoder(nn.Module):
    """Tokens to logits. Parameters are uninitialized until `initialize`."""

    def __init__(
        self,
        shape: Shape,
        model: Architecture,
        parametrization: Parametrization,
        vocab_size: int,
        context: int,
        ops: Ops,
    ) -> None:
        super().__init__()
        table = parametrization.table(shape)
        self.shape, self.parametrization, self.ops = shape, parametrization, ops
        self.embedding_multiplier = table["embedding"].forward
        self.logit_multiplier = table["head"].forward
        self.embedding = nn.Parameter(torch.empty(vocab_size, shape.d_model))
        self.blocks = nn.ModuleList(
            Block(
                shape,
                model,
                parametrization.attention_multiplier(shape),
                table["residual_output"].forward,
                ops,
            )
            for _ in range(shape.n_layers)
        )
        self.final_norm = Norm(shape.d_model, model, ops)
        self.head = None if model.tied else nn.Parameter(torch.empty(vocab_size, shape.d_model))
        rotations = rotary_table(context, shape.head_size, model.rope_base)
        self.register_buffer("rotations", rotations, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] -> logits [B * T, V]."""
        rows, length = tokens.shape
        x = F.embedding(tokens.reshape(-1), self.embedding)
        if self.embedding_multiplier != 1.0:
            x = x * self.embedding_multiplier
        rotations: Any = self.rotations
        for block in self.blocks:
            x = block(x, rotations[:length], rows)
        logits = self.ops.linear(self.final_norm(x), self.embedding if self.head is None else self.head)
        return logits if self.logit_multiplier == 1.0 else logits * self.logit_multiplier

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw every tensor from its own stream, keyed by the seed and the tensor's name."""
        table = self.parametrization.table(self.shape)
        for name, parameter in self.named_parameters():
            kind = parameter_class(name)
            if kind in ("gain", "final_gain"):
                parameter.fill_(1.0)
                continue
            generator = torch.Generator().manual_seed(key(seed, "init", name) % 2**63)
            parameter.normal_(0.0, 1.0, generator=generator).mul_(table[kind].init_std)
            if name.endswith("qkv") and self.parametrization.zero_query:
                parameter[: self.shape.d_model].zero_()


def parameter_class(name: str) -> ParameterClass:
    """The parametrization's class of a parameter, by its name in the module tree."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "gain":
        return "final_gain" if name.startswith("final_norm") else "gain"
    if leaf in ("attention_out", "mlp_out"):
        return "residual_output"
    if leaf in ("embedding", "head"):
        return "embedding" if leaf == "embedding" else "head"
    return "hidden"
