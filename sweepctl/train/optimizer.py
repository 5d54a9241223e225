"""A model's optimizer: every tensor has the rate, decay and epsilon that its parametrization gives it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.weights import Weight
from sweepctl.train.model import Decoder
from sweepctl.train.optimizers import maker
from sweepctl.train.optimizers.group import Assigned, Terms
from sweepctl.train.sharding import Shards

SCALARS = {"step"}
"""What an optimizer keeps once for a whole tensor: the count of its updates."""


class GroupedOptimizer:
    """The optimizers of a model's tensors, driven by a multiplier on the peak learning rate at every step."""

    def __init__(self, model: Decoder, spec: Optimizer, shards: Shards | None = None) -> None:
        """With `shards` over the tensors that are this process's."""
        self.spec, self.shards = spec, shards
        self.named = {weight.name: parameter for weight, parameter in model.named_weights()}
        make = maker(spec)
        self.keys = {weight.name: make.state_keys(spec, weight) for weight, _ in model.named_weights()}
        tensors = [
            Assigned(w, parameter, self._terms(model, w))
            for w, parameter in model.named_weights()
            if shards is None or shards.owns(w.name)
        ]
        self.parameters = [tensor.parameter for tensor in tensors]
        self.members = make.members(spec, tensors) if tensors else []

    def _terms(self, model: Decoder, weight: Weight) -> Terms:
        row, spec = model.parametrization.row(weight, model.shape), self.spec
        return Terms(spec.peak_lr(weight, row), spec.decay(weight, row), spec.epsilon(row))

    def step(self, multiplier: float) -> Tensor | None:
        """One update at `multiplier` x the peak learning rate.

        Returns the norm of the gradient before clipping, or None where nothing is clipped.
        """
        norm = None if self.spec.clip_norm is None else self._clip(self.spec.clip_norm)
        for member in self.members:
            for group in member.param_groups:
                terms: Terms = group["terms"]
                group["lr"], group["weight_decay"] = terms.lr * multiplier, terms.weight_decay
            member.step()
            member.zero_grad(set_to_none=True)
        if self.shards is not None:
            self.shards.spread()
        return norm

    def _clip(self, bound: float) -> Tensor:
        if self.shards is None:
            return nn.utils.clip_grad_norm_(self.parameters, bound, foreach=True)
        norm = self.shards.gradient_norm(self.named)
        nn.utils.clip_grads_with_norm_(self.parameters, bound, norm, foreach=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """All that the optimizers keep of every parameter (moments, step counts), by name. With shards all
        processes come here together, and only rank 0 gets it, on the host."""
        every = {p: kept for member in self.members for p, kept in member.state.items()}
        if self.shards is not None:
            return self._gathered(self.shards, every)
        return {
            f"{name}.{key}": tensor
            for name, parameter in self.named.items()
            for key, tensor in every.get(parameter, {}).items()
        }

    def _gathered(self, shards: Shards, own: dict[Tensor, dict[str, Tensor]]) -> dict[str, Tensor]:
        gathered = {}
        for name, parameter in self.named.items():
            for key in sorted(self.keys[name]):
                kept = own[parameter][key] if shards.owns(name) else _place(key, parameter)
                if (whole := shards.gather(name, kept)) is not None:
                    gathered[f"{name}.{key}"] = whole
        return gathered

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave, with shards what is this process's. The tensors are copied to each
        parameter's device.

        Raises:
            KeyError: another optimizer kept them, or a parameter has nothing kept.
        """
        kept: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            name, _, key = path.rpartition(".")
            kept.setdefault(name, {})[key] = tensor
        owner = {p: m for m in self.members for group in m.param_groups for p in group["params"]}
        for name, parameter in self.named.items():
            state, needed = kept.get(name, {}), self.keys[name]
            if state.keys() != needed:
                raise KeyError(
                    f"of {name} it keeps {_listed(state)}, {self.spec.name} keeps {_listed(needed)}"
                )
            if parameter in owner:
                owner[parameter].state[parameter] = {
                    key: tensor.to(parameter.device, copy=True) for key, tensor in state.items()
                }


def _place(key: str, parameter: Tensor) -> Tensor:
    """Where what another process keeps of a parameter under this key can be put, on the host."""
    return torch.empty(() if key in SCALARS else parameter.shape, dtype=torch.float32)


def _listed(keys: Iterable[str]) -> str:
    return " and ".join(sorted(keys)) or "nothing"
