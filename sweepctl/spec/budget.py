"""Budgets: the token counts at which an annealed loss is wanted, asked for in tokens, tokens a parameter or
FLOPs, and rounded to whole steps."""

from __future__ import annotations

from dataclasses import dataclass

from sweepctl.errors import InvalidValue
from sweepctl.spec.accounting import Accounting, Counts


@dataclass(frozen=True, slots=True)
class Budgets:
    """What every point is trained for. The lists are joined; the limits drop what would teach nothing."""

    tokens: tuple[float, ...] = ()
    """Wanted tokens."""
    tokens_per_parameter: tuple[float, ...] = ()
    """Wanted ratios of tokens to the rung's parameters."""
    flops: tuple[float, ...] = ()
    """Wanted training FLOPs, for isoFLOP curves."""
    min_steps: int = 0
    """Budgets of fewer steps are dropped."""
    max_tokens: float | None = None
    """Budgets of more tokens are dropped."""
    min_tokens_per_parameter: float = 0.0
    """Budgets below this ratio are dropped."""
    max_tokens_per_parameter: float | None = None
    """Budgets above this ratio are dropped."""

    def __post_init__(self) -> None:
        if not (self.tokens or self.tokens_per_parameter or self.flops):
            raise InvalidValue("", "no budgets", "a non-empty list of tokens, tokens_per_parameter or flops")
        for key in ("tokens", "tokens_per_parameter", "flops"):
            if any(value <= 0 for value in getattr(self, key)):
                raise InvalidValue(key, list(getattr(self, key)), "a list of numbers above 0")
        if self.min_steps < 0 or self.min_tokens_per_parameter < 0:
            raise InvalidValue("min_steps", self.min_steps, "at least 0")

    def of(
        self, counts: Counts, accounting: Accounting, batch_tokens: int
    ) -> tuple[list[Budget], list[tuple[str, str]]]:
        """The rung's budgets in rising order, and (label, reason) of those the limits drop.

        Two budgets that round to the same number of steps are one, with both labels.
        """
        parameters = counts.parameters(accounting.parameters)
        per_token = counts.flops_per_token(accounting)
        asked = [(f"{_short(t)} tokens", t) for t in self.tokens]
        asked += [(f"{_short(r)} tokens/param", r * parameters) for r in self.tokens_per_parameter]
        asked += [(f"{c:.3g} FLOPs", c / per_token) for c in self.flops]
        kept: dict[int, Budget] = {}
        dropped = []
        for label, tokens in asked:
            steps = max(1, round(tokens / batch_tokens))
            reason = self._drop(steps, steps * batch_tokens, steps * batch_tokens / parameters)
            if reason:
                dropped.append((label, reason))
            elif steps in kept:
                kept[steps] = Budget(f"{kept[steps].label} = {label}", kept[steps].requested_tokens, steps)
            else:
                kept[steps] = Budget(label, tokens, steps)
        return [kept[steps] for steps in sorted(kept)], dropped

    def _drop(self, steps: int, tokens: int, ratio: float) -> str | None:
        if steps < self.min_steps:
            return f"{steps} steps are fewer than budget.min_steps={self.min_steps}"
        if self.max_tokens is not None and tokens > self.max_tokens:
            return f"{_short(tokens)} tokens are more than budget.max_tokens={_short(self.max_tokens)}"
        if ratio < self.min_tokens_per_parameter:
            return f"{ratio:.2g} tokens/param are below {self.min_tokens_per_parameter:g}"
        if self.max_tokens_per_parameter is not None and ratio > self.max_tokens_per_parameter:
            return f"{ratio:.3g} tokens/param are above {self.max_tokens_per_parameter:g}"
        return None


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget of one rung."""

    label: str
    """What was asked for, as tables show it."""
    requested_tokens: float
    """The same in tokens."""
    steps: int
    """The whole steps that it is trained for."""


def _short(value: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"
