"""The choices of the isoFLOP protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweepctl.laws.law import Resampling, option
from sweepctl.laws.observations import CannotFit


@dataclass(frozen=True, slots=True)
class Options(Resampling):
    """Every choice of the protocol."""

    curve: Literal["quadratic", "akima"] = option("quadratic", "through the losses of a budget")
    over: Literal["n", "d", "m"] = option(
        "n", "the curve runs over parameters, tokens or FLOPs a token C / D"
    )
    loss: Literal["raw", "log"] = option("raw", "what the curve is fitted to")
    budgets: tuple[float, ...] | None = option(None, "FLOPs that rows are snapped to; none: groups of rows")
    tolerance: float = option(0.1, "share in FLOPs within which rows are of a budget")
    per_size: Literal["nearest", "best", "mean", "all"] = option(
        "nearest", "of rows of one size in a budget: the nearest in FLOPs, the best, their mean, or all"
    )
    window: int | None = option(None, "sizes used each side of the least loss; none: all")
    edges: Literal["drop", "keep"] = option("drop", "budgets with a minimum outside the sizes trained")
    optimum: Literal["losses", "median"] = option(
        "losses", "a budget's minimum: of its losses, or the median of its replicates"
    )
    weights: Literal["equal", "spread"] = option(
        "equal", "of budgets in the power laws: equal, or the inverse variance of their log minima"
    )
    floor: float | None = option(
        None, "E of L* = E + k_l C^c in nats; 0 is a pure power law; none: fitted, of four budgets or more"
    )
    intervals: Literal["copies", "rows"] = option(
        "copies", "replicates: copies of the losses with noise, or rows drawn again inside each budget"
    )
    noise: float | None = option(
        None, "s.d. of log loss between equal runs; none: the scatter around the parametric law"
    )

    def __post_init__(self) -> None:
        Resampling.__post_init__(self)
        if not 0 < self.tolerance < 1:
            raise CannotFit(f"isoflop needs a tolerance between 0 and 1; it is {self.tolerance:g}.")
        if self.noise is not None and self.noise < 0:
            raise CannotFit(f"isoflop needs a noise of at least 0, or none; it is {self.noise:g}.")
        if self.window is not None and self.window < 1:
            raise CannotFit(f"isoflop needs a window of at least 1 size, or none; it is {self.window}.")
        if self.budgets and min(self.budgets) <= 0:
            raise CannotFit("isoflop needs budgets above 0 FLOPs.")
        if self.curve == "akima" and self.per_size == "all":
            raise CannotFit("isoflop with curve=akima takes one row a size: per_size nearest, best or mean.")
