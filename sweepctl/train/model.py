"""A pre-norm decoder, put together from `layers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sweepctl.spec.hashing import key
from sweepctl.spec.model import Architecture, Shape
from sweepctl.spec.parametrization import Parametrization
from sweepctl.spec.weights import VECTORS, Weight, weights
from sweepctl.train.layers.attention import SoftmaxAttention
from sweepctl.train.layers.experts import Mixture
from sweepctl.train.layers.linear import LinearAttention
from sweepctl.train.layers.mlp import Mlp
from sweepctl.train.layers.norm import Norm
from sweepctl.train.ops import Ops, rotary_table


class DecoderOutput(NamedTuple):
    """What a forward pass gives: logits [B * T, V], and a penalty to add to the training loss or None."""

    logits: Tensor
    penalty: Tensor | None = None


class Block(nn.Module):
    """A mixer of tokens and an MLP, each added to the residual stream times the branch multiplier."""

    def __init__(
        self, shape: Shape, model: Architecture, layer: int, scale: float, branch: float, ops: Ops
    ) -> None:
        super().__init__()
        self.branch = branch
        self.mixer: nn.Module
        if model.mixer(layer) == "softmax":
            self.mixer = SoftmaxAttention(shape, model, scale, ops)
        else:
            self.mixer = LinearAttention(shape, model, layer, ops)
        self.mlp = Mlp(shape, model, ops) if model.experts is None else Mixture(shape, model, ops)
        self.attention_norm = Norm(shape.d_model, model, ops)
        self.mlp_norm = Norm(shape.d_model, model, ops)

    def forward(
        self, x: Tensor, rotations: Tensor | None, rows: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x [rows * T, d] -> the same shape, and what experts say beside it: their penalty and loads."""
        x = torch.add(x, self.mixer(self.attention_norm(x), rotations, rows), alpha=self.branch)
        y = self.mlp_norm(x)
        y, *said = self.mlp(y, rows) if isinstance(self.mlp, Mixture) else (self.mlp(y), None, None)
        return torch.add(x, y, alpha=self.branch), *said


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
        self.shape, self.parametrization, self.ops = shape, parametrization, ops
        self.recomputes = False
        self.specs = {weight.name: weight for weight in weights(shape, model, vocab_size, context)}
        self.embedding_multiplier = parametrization.multiplier("embedding", shape)
        self.logit_multiplier = parametrization.logit_multiplier(shape, model.tied)
        scale = parametrization.attention_multiplier(shape)
        branch = parametrization.multiplier("residual_output", shape)
        self.embedding = nn.Parameter(torch.empty(vocab_size, shape.d_model))
        learned = model.positions == "learned"
        self.positions = nn.Parameter(torch.empty(context, shape.d_model)) if learned else None
        self.position_multiplier = parametrization.multiplier("input", shape)
        self.blocks = nn.ModuleList(
            Block(shape, model, layer, scale, branch, ops) for layer in range(shape.n_layers)
        )
        self.final_norm = Norm(shape.d_model, model, ops)
        self.head = None if model.tied else nn.Parameter(torch.empty(vocab_size, shape.d_model))
        rotary = model.positions == "rope"
        rotations = rotary_table(context, shape.head_size, model.rope_base) if rotary else None
        self.register_buffer("rotations", rotations, persistent=False)

    def forward(self, tokens: Tensor) -> DecoderOutput:
        """tokens [B, T] -> logits [B * T, V] and the penalty."""
        x, penalty = self.hidden(tokens)
        logits = self.ops.linear(x, self.output)
        if self.logit_multiplier != 1.0:
            logits = logits * self.logit_multiplier
        return DecoderOutput(logits, penalty)

    @property
    def output(self) -> nn.Parameter:
        """The head [V, d], which is the embedding where the two are tied."""
        return self.embedding if self.head is None else self.head

    def hidden(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """tokens [B, T] -> what the head multiplies [B * T, d], and the penalty."""
        rows, length = tokens.shape
        x = self.embed(tokens)
        table: Any = self.rotations
        rotations = None if table is None else table[:length]
        penalty: Tensor | None = None
        for block in self.blocks:
            x, more, loads = self._through(block, x, rotations, rows)
            if isinstance(block.mlp, Mixture) and loads is not None:
                block.mlp.loads += loads
            if more is not None:
                penalty = more if penalty is None else penalty + more
        return self.final_norm(x), penalty

    def _through(
        self, block: nn.Module, x: Tensor, rotations: Tensor | None, rows: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """One block. With `recomputes` the backward pass has its input only, and computes the rest anew."""
        if self.recomputes and torch.is_grad_enabled():
            # Nothing in a block is random: no generator's state need be kept.
            return checkpoint(block, x, rotations, rows, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
        return block(x, rotations, rows)  # type: ignore[no-any-return]

    @torch.no_grad()
    def balance(self, total: Callable[[Tensor], Tensor]) -> Tensor | None:
        """After an update: move the selection biases of all layers by what its tokens chose.

        `total` sums whole numbers over all processes. Returns how many tokens each expert got [layers, E];
        None where there are no experts.
        """
        mixtures = [block.mlp for block in self.blocks if isinstance(block.mlp, Mixture)]
        if not mixtures:
            return None
        loads = total(torch.stack([mixture.loads for mixture in mixtures]).double())
        for mixture, load in zip(mixtures, loads, strict=True):
            mixture.balance(load)
        return loads

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] -> the residual stream's start [B * T, d]."""
        x = F.embedding(tokens.reshape(-1), self.embedding)
        if self.embedding_multiplier != 1.0:
            x = x * self.embedding_multiplier
        if self.positions is None:
            return x
        positions = self.positions[: tokens.shape[1]]
        if self.position_multiplier != 1.0:
            positions = positions * self.position_multiplier
        return (x.view(*tokens.shape, -1) + positions).view(x.shape)

    def named_weights(self) -> list[tuple[Weight, nn.Parameter]]:
        """Every parameter with what the parametrization must know of it."""
        return [(self.specs[flat_name(path)], parameter) for path, parameter in self.named_parameters()]

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw every tensor from its own stream, keyed by the seed and the tensor's name.

        Zero queries are of softmax layers: a linear layer's norm would have nothing to divide by.
        """
        for weight, parameter in self.named_weights():
            row = self.parametrization.row(weight, self.shape)
            if weight.kind in VECTORS:
                parameter.fill_(0.0 if weight.kind == "bias" else 1.0)
                continue
            generator = torch.Generator().manual_seed(key(seed, "init", weight.name) % 2**63)
            if self.parametrization.init == "truncated_normal":
                nn.init.trunc_normal_(parameter, 0.0, 1.0, -2.0, 2.0, generator=generator)
            else:
                parameter.normal_(0.0, 1.0, generator=generator)
            parameter.mul_(row.init_std)
            if self.parametrization.zero_query:
                parameter[: weight.queries].zero_()


def flat_name(path: str) -> str:
    """A tensor's name by its path in the module tree: blocks.0.mixer.qkv is blocks.0.qkv. Checkpoints and
    seeds go by it, so that modules may be rearranged."""
    return path.replace(".mixer.", ".").replace(".mlp.", ".")
