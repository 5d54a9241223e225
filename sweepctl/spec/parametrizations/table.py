"""A row of a parametrization's table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """The formulas of one class of tensors, column by column.

    Names: s init_std, m = d_model / base_d_model, m_L = n_layers / base_n_layers, a the depth exponent, d, L,
    fan_in and fan_out of the tensor, alpha_in, alpha_res and alpha_out the multipliers of the embedding, of
    residual branches and of the output, and `deep`, which is 1 / sqrt(2 L) where the depth rule is off
    (a = 0; m_L is then 1) and else 1.
    """

    init_std: str
    """Standard deviation of the initialization."""
    lr: str = "1"
    """Multiplier on the learning rate of Adam and Lion."""
    lr_sgd: str = "1"
    """Multiplier on the learning rate of SGD."""
    lr_muon: str = "1"
    """Multiplier on the learning rate of Muon."""
    forward: str = "1"
    """Multiplier on the output in the forward pass."""
    weight_decay: str = "1"
    """Multiplier on weight decay."""
    eps: str = "1"
    """Multiplier on epsilon."""
    tied: str | None = None
    """Of the head: the multiplier on logits where the head is the embedding, whose row it then has."""


COLUMNS = ("init_std", "lr", "lr_sgd", "lr_muon", "forward", "weight_decay", "eps")
"""The columns of every row."""
