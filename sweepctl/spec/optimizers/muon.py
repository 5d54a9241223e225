"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for the matrices inside blocks, AdamW for the
rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

from sweepctl.errors import InvalidValue
from sweepctl.spec.optimizers.adamw import Adam
from sweepctl.spec.parametrization import Row
from sweepctl.spec.weights import Weight


@dataclass(frozen=True, kw_only=True)
class Muon(Adam):
    """Momentum, made orthogonal; embeddings, head, router and vectors go to AdamW."""

    name: Literal["muon"] = "muon"
    momentum: float
    """Of the mean of gradients."""
    nesterov: bool
    """Whether what is made orthogonal looks one gradient ahead."""
    muon_scale: Literal["jordan", "spectral", "moonlight"]
    """The rule of the factor on the orthogonal update."""
    muon_steps: int
    """Newton-Schulz steps an update."""
    adamw_lr: float | None
    """The peak learning rate of what is left to AdamW, None for `lr`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._below_1("momentum")
        if self.adamw_lr is not None and self.adamw_lr <= 0:
            raise InvalidValue("adamw_lr", self.adamw_lr, "above 0, or null for lr")
        if self.muon_steps < 1:
            raise InvalidValue("muon_steps", self.muon_steps, "at least 1")

    def effective(self) -> Self:
        same = super().effective()
        return replace(same, adamw_lr=None) if self.adamw_lr == self.lr else same

    def orthogonalizes(self, weight: Weight) -> bool:
        """Whether Muon updates this tensor: the matrices inside blocks."""
        return weight.is_hidden_matrix

    def scale(self, weight: Weight) -> float:
        """The factor on the orthogonal update of each of a tensor's matrices.

        jordan: github.com/KellerJordan/Muon, muon.py. spectral: Yang, Simon and Bernstein 2023 (arXiv
        2310.17813), condition 1, for updates. moonlight: Liu et al. 2025 (arXiv 2502.16982), section 2.2,
        equation 4, for updates with the RMS of AdamW's.
        """
        if self.muon_scale == "moonlight":
            return 0.2 * math.sqrt(max(weight.fan_out, weight.fan_in))
        ratio = weight.fan_out / weight.fan_in
        return math.sqrt(ratio if self.muon_scale == "spectral" else max(1.0, ratio))

    def moments(self, weight: Weight) -> int:
        return 1 if self.orthogonalizes(weight) else super().moments(weight)

    def update_values(self, weight: Weight) -> int:
        """Directions, those of a shape in one stack, its powers, the updates."""
        return 6 if self.orthogonalizes(weight) else 0

    def base_lr(self, weight: Weight) -> float:
        if self.orthogonalizes(weight) or self.adamw_lr is None:
            return self.lr
        return self.adamw_lr

    def lr_multiplier(self, weight: Weight, row: Row) -> float:
        return row.lr_muon if self.orthogonalizes(weight) else row.lr

    def decay_multiplier(self, weight: Weight, row: Row) -> float:
        return 1.0 if self.orthogonalizes(weight) else row.weight_decay
