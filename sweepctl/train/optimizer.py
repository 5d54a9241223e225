"""A model's optimizer: every tensor has the rate, decay and epsilon that its parametrization gives it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.weights import Weight
from sweepctl.train.model import Decoder
from sweepctl.train.optimizers import maker
from sweepctl.train.optimizers.group import Assigned, Terms


class GroupedOptimizer:
    """The optimizers of a model's tensors, driven by a multiplier on the peak learning rate at every step."""

    def __init__(self, model: Decoder, spec: Optimizer) -> None:
        self.spec = spec
        self.named = {weight.name: parameter for weight, parameter in model.named_weights()}
        self.parameters = list(self.named.values())
        make = maker(spec)
        self.keys = {weight.name: make.state_keys(spec, weight) for weight, _ in model.named_weights()}
        tensors = [Assigned(w, parameter, self._terms(model, w)) for w, parameter in model.named_weights()]
        self.members = make.members(spec, tensors)

    def _terms(self, model: Decoder, weight: Weight) -> Terms:
        row, spec = model.parametrization.row(weight, model.shape), self.spec
        return Terms(spec.peak_lr(weight, row), spec.decay(weight, row), spec.epsilon(row))

    def step(self, multiplier: float) -> Tensor | None:
        """One update at `multiplier` x the peak learning rate.

        Returns the norm of the gradient before clipping, or None where nothing is clipped.
        """
        norm = None
        if self.spec.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.spec.clip_norm, foreach=True)
        for member in self.members:
            for group in member.param_groups:
                terms: Terms = group["terms"]
                group["lr"], group["weight_decay"] = terms.lr * multiplier, terms.weight_decay
            member.step()
            member.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """All that the optimizers keep of every parameter (moments, step counts), by name."""
        every = {p: kept for member in self.members for p, kept in member.state.items()}
        return {
            f"{name}.{key}": tensor
            for name, parameter in self.named.items()
            for key, tensor in every.get(parameter, {}).items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave. The tensors are copied to each parameter's device.

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
            owner[parameter].state[parameter] = {
                key: tensor.to(parameter.device, copy=True) for key, tensor in state.items()
            }


def _listed(keys: Iterable[str]) -> str:
    return " and ".join(sorted(keys)) or "nothing"
