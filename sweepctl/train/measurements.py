"""Looks into a model while it trains: the size of its activations, of their change, and of its updates."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sweepctl.spec.learning_rate import LearningRateCurve
from sweepctl.spec.weights import Weight
from sweepctl.train.builtin import BuiltinTrainer
from sweepctl.train.model import Decoder

Kind = Literal["activation", "change", "update"]
_MATRICES = ("hidden", "residual_output", "router", "head")


@dataclass(frozen=True, slots=True)
class Measurement:
    """The size of an activation, of its change, or of an update."""

    kind: Kind
    """`activation` and `change` (since the initialization) are root mean squares over a batch: of
    `embedding`, of the residual stream after `blocks.N`, of the outputs of its two branches before their
    multiplier, and of `logits`. `update` is the spectral norm of what the step's update changed in a matrix,
    over sqrt(fan_out / fan_in) (Yang, Simon and Bernstein 2023, arXiv 2310.17813, condition 1): of each block
    that is stacked in a tensor, and of the tensor the root mean square over its blocks and experts."""
    name: str
    """Of the activation or tensor."""
    step: int
    """Updates made before it."""
    value: float
    """The size, nan where it is not finite."""
    hidden: bool
    """Not the logits, the head or the router, and not a block of a tensor, which has no learning rate of its
    own. (A block's update can also lose coherence: that of the keys does while heads are few, because a
    softmax does not see what all its keys have in common.)"""


def measure(trainer: BuiltinTrainer, steps: tuple[int, ...]) -> Iterator[Measurement]:
    """Train at the peak learning rate and read after each of `steps` updates, and activations before any.

    The batch that is looked at is the trainer's first.
    """
    curve = LearningRateCurve(warmup=0)
    tokens = trainer.batches.batch(0)[0].to(trainer.machine.device)
    before = _activations(trainer.model, tokens)
    yield from (_rms("activation", name, 0, x) for name, x in before.items())
    for step in range(1, max(steps) + 1):
        if step not in steps:
            trainer.update(curve)
            continue
        old = {w.name: p.detach().clone() for w, p in trainer.model.named_weights() if w.kind in _MATRICES}
        trainer.update(curve)
        for weight, parameter in trainer.model.named_weights():
            if weight.name in old:
                norms = relative_norms(weight, parameter.detach() - old[weight.name])
                for name, norm in norms.items():
                    hidden = weight.is_hidden_matrix and name == weight.name
                    yield Measurement("update", name, step, norm, hidden)
        now = _activations(trainer.model, tokens)
        yield from (_rms("activation", name, step, x) for name, x in now.items())
        yield from (_rms("change", name, step, x - before[name]) for name, x in now.items())


def relative_norms(weight: Weight, change: Tensor) -> dict[str, float]:
    """Spectral norms over sqrt(fan_out / fan_in) of a change of this tensor, by name: the tensor's, and where
    several blocks are stacked in it each one's. In float64; nan where the change is not finite."""
    rows, columns = weight.size[-2] // weight.matrices, weight.size[-1]
    blocks = change.reshape(-1, weight.matrices, rows, columns).double()
    names = [f"{weight.name}.{part}" for part in _parts(weight)]
    if not bool(blocks.isfinite().all()):
        return dict.fromkeys([weight.name, *names], math.nan)
    if rows > columns:
        blocks = blocks.transpose(-1, -2)
    squares = torch.linalg.eigvalsh(blocks @ blocks.transpose(-1, -2))[..., -1].clamp(min=0)
    norms = (squares.mean(0) * weight.fan_in / weight.fan_out).sqrt()
    whole = float(norms.square().mean().sqrt())
    return {weight.name: whole} | dict(zip(names, norms.tolist(), strict=False))


def _parts(weight: Weight) -> tuple[str, ...]:
    """The names of the blocks stacked in a tensor, none where it is one."""
    if weight.matrices == 1:
        return ()
    last = weight.name.rpartition(".")[2]
    return {"qkv": ("q", "k", "v"), "kv": ("k", "v")}.get(last, ("gate", "up"))


@torch.no_grad()
def _activations(model: Decoder, tokens: Tensor) -> dict[str, Tensor]:
    """Name -> activations of a forward pass that leaves no trace in the model."""
    activations: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, args, output: activations.__setitem__(name, _first(output).detach().clone())

    with contextlib.ExitStack() as hooks:
        first = model.blocks[0].register_forward_pre_hook(
            lambda module, args: activations.__setitem__("embedding", args[0].detach().clone())
        )
        hooks.callback(first.remove)
        for layer, block in enumerate(model.blocks):
            watched: list[tuple[str, Any]] = [
                (f"blocks.{layer}.attention_out", block.mixer),
                (f"blocks.{layer}.mlp_out", block.mlp),
                (f"blocks.{layer}", block),
            ]
            for name, module in watched:
                hooks.callback(module.register_forward_hook(keep(name)).remove)
        hooks.callback(model.train, model.training)
        model.eval()
        activations["logits"] = model(tokens).logits
    return activations


def _first(output: Any) -> Tensor:
    """A module's output, without what it gives beside it."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def _rms(kind: Kind, name: str, step: int, x: Tensor) -> Measurement:
    value = float(x.double().square().mean().sqrt())
    return Measurement(kind, name, step, value if math.isfinite(value) else math.nan, name != "logits")
