"""Straight lines and planes by weighted least squares, one a replicate, as arrays; and what is resampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from sweepctl.laws.numerics.rounding import above_rounding
from sweepctl.laws.observations import Floats


def least_squares(columns: Floats, target: Floats, weights: Floats | None = None) -> Floats:
    """Coefficients of target ~ columns [rows, k], for every row of weights [replicates, rows].

    The weights multiply the squares. Returns [k] without weights, else [replicates, k]; a replicate whose
    design does not determine them gives the ones of least norm.
    """
    scale = np.linalg.norm(columns, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = columns / scale
    if weights is None:
        return np.asarray(np.linalg.lstsq(design, target, rcond=None)[0] / scale)
    gram = np.einsum("rb,bi,bj->rij", weights, design, design, optimize=True)
    moment = np.einsum("rb,bi,b->ri", weights, design, target, optimize=True)
    inverse = np.linalg.pinv(gram, hermitian=True, rcond=1e-12)
    return np.asarray(np.einsum("rij,rj->ri", inverse, moment) / scale)


def power_law(
    predictors: Mapping[str, Any], target: Any, weights: Floats | None = None
) -> tuple[Floats, dict[str, Floats]]:
    """target = factor x product of predictor^exponent, by least squares on natural logarithms.

    predictors: name -> [rows]; target: [rows]; weights: [replicates, rows] or None. Returns the factor and
    the exponent of each predictor: scalars, or [replicates]. A predictor that does not vary gets exponent 0.
    """
    logs = {name: np.log(np.asarray(values, dtype=np.float64)) for name, values in predictors.items()}
    centers = {name: values.mean() for name, values in logs.items()}
    design = np.stack([np.ones(len(target)), *(logs[name] - centers[name] for name in logs)], axis=1)
    design[:, np.abs(design).max(axis=0) < 1e-9] = 0.0  # rounding is no slope
    coefficients = least_squares(design, np.log(np.asarray(target, dtype=np.float64)), weights)
    exponents = {name: coefficients[..., place + 1] for place, name in enumerate(logs)}
    level = coefficients[..., 0] - sum(exponents[name] * centers[name] for name in logs)
    return np.exp(level), exponents


def r_squared(predicted: Any, target: Any) -> float:
    """Share of the target's variance that the prediction explains."""
    target = np.asarray(target, dtype=np.float64)
    left = float(np.sum((target - np.asarray(predicted)) ** 2))
    whole = float(np.sum((target - target.mean()) ** 2))
    return 1 - left / whole if varies(whole, target) else float("nan")


def varies(squares: Any, values: Any) -> Any:
    """Whether squares of deviations from the mean, summed over values, are more than their rounding."""
    return above_rounding(np.sqrt(squares), np.sqrt(np.sum(np.square(values))))


def collinear(columns: Floats, limit: float = 30.0) -> bool:
    """Whether centred and scaled columns [rows, k] are nearly dependent: condition number above the limit
    (Belsley, Kuh and Welsch 1980)."""
    centred = columns - columns.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    if (norms <= 1e-12 * np.maximum(1.0, np.abs(columns).max(axis=0))).any():
        return True
    values = np.linalg.svd(centred / norms, compute_uv=False)
    return bool(values[-1] <= 0 or values[0] / values[-1] > limit)


def resample(rows: int, replicates: int, seed: int) -> Floats:
    """How often each row is drawn in each replicate: [replicates, rows], rows drawn with replacement."""
    draw = np.random.Generator(np.random.PCG64(seed))
    return draw.multinomial(rows, np.full(rows, 1 / rows), size=replicates).astype(np.float64)


def resample_groups(groups: NDArray[np.int64], replicates: int, seed: int) -> Floats:
    """The same with whole groups drawn: `groups` [rows] are their numbers from 0 on; [replicates, rows]."""
    return resample(int(groups.max()) + 1, replicates, seed)[:, groups]


def widening(drawn: int, parameters: int, level: float) -> float:
    """By how much replicates of G drawn around k parameters are spread so that their percentiles cover as
    Student's t does (expanded percentile intervals, Hesterberg 2015, The American Statistician 69): they
    scatter by (1 - k / G)^1/2 too little, and their scatter is itself known to G - k degrees of freedom only.
    """
    freedom = drawn - parameters
    if freedom < 1:
        return 1.0
    share = 0.5 + level / 2
    return float(np.sqrt(drawn / freedom) * stdtrit(freedom, share) / ndtri(share))


def scatters(squares: float, freedom: int, replicates: int, draw: np.random.Generator) -> Floats:
    """Draws [replicates] of the standard deviation behind a sum of squares: that sum over a chi-squared with
    as many degrees of freedom, so that what is drawn with it has Student's tails."""
    return np.asarray(np.sqrt(squares / draw.chisquare(max(1, freedom), replicates)))
