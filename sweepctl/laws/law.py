"""What a law is: its options, how it is fitted, and what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sweepctl.laws.fit import Estimate, Fit, Target
from sweepctl.laws.observations import CannotFit, Observations

MOST_REPLICATES = 100_000


def option(default: Any, text: str) -> Any:
    """A field of a law's options, with what `fit --list` says of it."""
    return field(default=default, metadata={"told": text})


@dataclass(frozen=True, slots=True)
class Resampling:
    """What every law's options have: how many replicates stand behind its intervals.

    Raises:
        CannotFit: a number below 0.
    """

    replicates: int = option(1000, "refits behind the intervals; 0 gives none")
    seed: int = option(0, "of the replicates")

    def __post_init__(self) -> None:
        for name, most in (("replicates", MOST_REPLICATES), ("seed", 2**32)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise CannotFit(f"{name} must be a whole number from 0 to {most:,}; it is {value:.6g}.")


@dataclass(frozen=True)
class Law:
    """One law: what it is, what it needs, how it is fitted and what it predicts."""

    name: str
    """As --law names it."""
    formula: str
    """What is fitted, in a line."""
    source: str
    """Who published it, and where."""
    options: type[Resampling]
    """Every choice of its protocol."""
    needs: tuple[str, ...]
    """Roles that must be there; flops are 6 N D where no column holds them."""
    fit: Callable[[Observations, Any], Fit]
    """Fits it with its options; raises CannotFit."""
    predict: Callable[[Fit, Target], Mapping[str, Estimate]]
    """Estimates by name: n, d, tokens_per_parameter, loss, lr, batch, accuracy; raises CannotFit."""
    targets: tuple[tuple[str, ...], ...]
    """The roles that a prediction may be asked for together."""
    takes: tuple[str, ...] = ()
    """Roles that it uses where they are."""
    annealed: bool = True
    """Whether only losses at the end of a decay mean what the law is about."""
    reduced: bool = True
    """Whether at equal N and D only the best over learning rate and batch counts, averaged over seeds."""
    table: Literal["runs", "curves"] = "runs"
    """Which table of a sweep it reads."""
    held_out: Literal["row", "best", "none"] = "row"
    """Whether --hold-out predicts every row, the best row of its budget, or does not apply."""
    partial: tuple[str, ...] = ()
    """Roles that a row may lack."""
    of_optima: bool = False
    """Whether its a and b are the exponents of N*(C) and D*(C)."""
