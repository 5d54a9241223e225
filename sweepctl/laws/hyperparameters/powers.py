"""Power laws through optima, with replicates that draw the optima or their cells anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweepctl.laws.fit import LEVEL
from sweepctl.laws.hyperparameters.optima import Optima
from sweepctl.laws.law import Resampling
from sweepctl.laws.numerics.linear import power_law, resample, resample_groups, varies, widening
from sweepctl.laws.observations import Floats


@dataclass(frozen=True)
class PowerLaw:
    """One law: target = factor x product of predictor^exponent, through its optima."""

    role: str
    """The target."""
    optima: Optima
    """What it goes through."""
    predictors: dict[str, Floats]
    """Role -> its values at the optima."""
    factor: float
    """At the optimum."""
    exponents: dict[str, float]
    """Predictor -> its exponent."""
    samples: dict[str, Floats]
    """Of every replicate."""
    r2: tuple[float, Floats]
    """The share of the scatter that it explains; of every replicate."""
    squares: float
    """Sum of squares of the log residuals."""

    def params(self) -> dict[str, float]:
        """lr_factor, lr_n, ..."""
        powers = {f"{self.role}_{name}": power for name, power in self.exponents.items()}
        return {f"{self.role}_factor": self.factor, **powers}

    def at(self, values: Mapping[str, Any]) -> Any:
        """The law at predictors."""
        return power_at(self.params(), self.role, self.predictors, values)


def power_at(params: Mapping[str, Any], role: str, over: Iterable[str], values: Mapping[str, Any]) -> Any:
    """ROLE_factor x product of value^ROLE_predictor over the predictors."""
    value = params[f"{role}_factor"]
    for name in over:
        value = value * values[name] ** params[f"{role}_{name}"]
    return value


def through(
    role: str, points: Optima, predictors: dict[str, Floats], weighting: str, draw: str, options: Resampling
) -> PowerLaw:
    """The power law of least squares on natural logarithms through the optima.

    `weighting`: rows (every optimum weighs the same) or cells (every cell does). `draw`: the replicates draw
    rows or cells. Cells are widened for their number; where they are no more than the law has parameters,
    there are no samples: a law through every cell says nothing of its scatter.
    """
    base = np.ones(len(points.value))
    if weighting == "cells":
        base = 1 / np.bincount(points.cell)[points.cell]
    weights = _weights(points, predictors, base, draw, options)
    factor, exponents = power_law(predictors, points.value, base[None])
    drawn_factor, drawn = power_law(predictors, points.value, weights)
    cell_count = len(np.unique(points.cell))
    wider = widening(cell_count, len(predictors) + 1, LEVEL) if draw == "cells" else 1.0
    samples = {f"{role}_factor": factor * (drawn_factor / factor) ** wider}
    samples |= {f"{role}_{k}": exponents[k] + wider * (drawn[k] - exponents[k]) for k in drawn}
    if draw == "cells" and cell_count <= len(predictors) + 1:
        samples = {}
    alone = {name: float(values[0]) for name, values in exponents.items()}
    share, squares = _explained(points.value, predictors, base[None], factor, exponents)
    shares, _ = _explained(points.value, predictors, weights, drawn_factor, drawn)
    return PowerLaw(
        role,
        points,
        predictors,
        float(factor[0]),
        alone,
        samples,
        (float(share[0]), shares),
        float(squares[0]),
    )


def _weights(
    points: Optima, predictors: dict[str, Floats], base: Floats, draw: str, options: Resampling
) -> Floats:
    """What each optimum weighs in each replicate [replicates, points]. Replicates that no longer determine
    what all optima together do are replaced by ones that do."""
    if draw == "rows":
        drawn = resample(len(base), options.replicates, options.seed)
    else:
        _, place = np.unique(points.cell, return_inverse=True)
        drawn = resample_groups(place, options.replicates, options.seed)
    logs = [np.log(values) - np.log(values).mean() for values in predictors.values()]
    design = np.stack([np.ones(len(base)), *(x / max(1e-12, float(np.abs(x).max())) for x in logs)], axis=1)
    gram = np.einsum("rp,pi,pj->rij", np.vstack([np.ones(len(base)), drawn]), design, design, optimize=True)
    values = np.linalg.eigvalsh(gram)
    rank = np.sum(values > 1e-9 * values[:, -1:], axis=1)
    good, bad = np.flatnonzero(rank[1:] >= rank[0]), np.flatnonzero(rank[1:] < rank[0])
    if good.size:
        drawn[bad] = drawn[np.resize(good, bad.size)]
    return np.asarray(drawn * base)


def _explained(
    value: Floats,
    predictors: dict[str, Floats],
    weights: Floats,
    factor: Floats,
    exponents: dict[str, Floats],
) -> tuple[Floats, Floats]:
    """Share of the variance of the logarithm that is explained, and the sum of squares left: [replicates]."""
    log = np.log(value)
    fitted = np.log(factor)[:, None] + sum(
        (exponents[name][:, None] * np.log(values) for name, values in predictors.items()),
        start=np.zeros((len(weights), len(value))),
    )
    left = np.sum(weights * (log - fitted) ** 2, axis=1)
    mean = weights @ log / np.maximum(weights.sum(1), 1e-300)
    whole = np.sum(weights * (log - mean[:, None]) ** 2, axis=1)
    moves = varies(whole, log)
    return np.where(moves, 1 - left / np.where(moves, whole, 1), 0.0), left
