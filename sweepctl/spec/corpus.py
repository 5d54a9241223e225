"""A prepared corpus as plans see it, and what of its held-out tokens is evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sweepctl.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """What a plan needs to know of the prepared data."""

    hash: str
    """Of its content."""
    vocab_size: int
    """Tokens there are."""
    train_tokens: int
    """Tokens to train on."""
    held_out: tuple[str, ...]
    """Names of its held-out sets, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Held-out tokens, and whose loss counts."""

    tokens: int
    """Of a final loss; 0 for the whole split."""
    curve_tokens: int
    """Of a point along a curve."""
    curve_per_octave: int
    """Points along a curve a doubling of tokens, at the same tokens for every run."""
    loss_on: str | None = None
    """The held-out set whose loss is the loss of a run, in tables, choices and laws; null for the corpus's
    first. Every set is evaluated."""

    def __post_init__(self) -> None:
        for key in ("tokens", "curve_tokens", "curve_per_octave"):
            if getattr(self, key) < 0:
                raise InvalidValue(key, getattr(self, key), "at least 0")

    def on(self, held_out: Collection[str]) -> Validation:
        """The same with its set named, of a corpus's held-out sets.

        Raises:
            InvalidValue: the corpus has no such set.
        """
        name = self.counted(held_out)
        if name not in held_out:
            raise InvalidValue("validation.loss_on", name, f"null or one of {', '.join(held_out)}")
        return dataclasses.replace(self, loss_on=name)

    def counted(self, held_out: Collection[str]) -> str | None:
        """The name of the set that counts: where none is named the first, as in plans of earlier versions."""
        return self.loss_on or next(iter(held_out), None)

    def loss(self, losses: Mapping[str, float]) -> float | None:
        """The loss that counts, of those on held-out sets; None where it was not measured."""
        return losses.get(self.counted(losses) or "")
