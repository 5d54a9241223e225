"""AdamW with one group a parameter class, so that every class has the rate its parametrization gives it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sweepctl.spec.model import Shape
from sweepctl.spec.optimizer import Optimizer
from sweepctl.spec.parametrization import Parametrization
from sweepctl.train.model import parameter_class

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class GroupedAdamW:
    """torch's fused AdamW, driven by a multiplier on the peak learning rate at every step."""

    def __init__(
        self, model: nn.Module, spec: Optimizer, parametrization: Parametrization, shape: Shape
    ) -> None:
        table = parametrization.table(shape)
        self.spec = spec
        self.named = dict(model.named_parameters())
        self.parameters = list(self.named.values())
        classes: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named.items():
            classes.setdefault(parameter_class(name), []).append(parameter)
        groups = []
        for kind, parameters in classes.items():
            row = table[kind]  # type: ignore[index]
            groups.append(
                {"params": parameters, "rate": row.lr, "decay": row.weight_decay * spec.weight_decay}
            )
        self.torch = torch.optim.AdamW(
            groups, lr=spec.lr, betas=(spec.beta1, spec.beta2), eps=spec.eps, weight_decay=0.0, fused=True
        )

    def step(self, multiplier: float) -> Tensor | None:
        """One update at `multiplier` x the peak learning rate.

        Returns the norm of the gradient before clipping, or None where nothing is clipped.
        """
        norm = None
        if self.spec.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.spec.clip_norm, foreach=True)
        for group in self.torch.param_groups:
            group["lr"] = self.spec.lr * group["rate"] * multiplier
            group["weight_decay"] = group["decay"]
            if self.spec.weight_decay_rule == "independent":
                # torch multiplies by 1 - lr * decay; dividing by the group's peak leaves decay * multiplier.
                group["weight_decay"] /= self.spec.lr * group["rate"]
        self.torch.step()
        self.torch.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Both moments and the step count of every parameter, by name."""
        return {
            f"{name}.{moment}": self.torch.state[parameter][moment]
            for name, parameter in self.named.items()
            for moment in _MOMENTS
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave. The tensors are copied to each parameter's device."""
        for name, parameter in self.named.items():
            self.torch.state[parameter] = {
                moment: tensors[f"{name}.{moment}"].to(parameter.device, copy=True) for moment in _MOMENTS
            }
