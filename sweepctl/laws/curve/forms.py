"""The two forms of the law of loss curves, as functions of many parameter vectors at once, and their fit.

Both are searched in variables of similar scale: logarithms of what is positive, with S1, S2 and the learning
rates in units of the data.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy.optimize import nnls

from sweepctl.laws.curve.schedules import Falls
from sweepctl.laws.observations import Floats, Mask

Values = tuple[Floats, Floats]
"""Predicted losses [rows, points] and their derivatives [rows, k, points]."""

LEAST = -9.0
"""Logarithm of the least L0 and of the least loss that annealing takes, in nats: as good as none."""

CHUNK = 2_000_000
"""Numbers in the largest array that is made at a time."""


@dataclass(frozen=True)
class Design:
    """What the forms see of the points."""

    s1: Floats
    """S1 [points]."""
    s2: Floats
    """S2 [points]."""
    falls: Falls | None = None
    """For the multi-power law."""


class Form(Protocol):
    """A form with k search variables: its values, its starts and what the variables are in the law."""

    names: tuple[str, ...]
    fallen: float
    """The unit of what the factor of annealing is multiplied with; 0 where no rate falls."""

    def values(self, x: Floats, design: Design) -> Values: ...
    def fenced(self, x: Floats) -> Mask: ...
    def starts(self, design: Design, loss: Floats) -> Floats: ...
    def natural(self, x: Floats) -> dict[str, Floats]: ...


def _power(x: Floats, ratio: Floats) -> tuple[Floats, Floats, Floats]:
    """exp(x0) + exp(x1) ratio^-x2: the two terms and the logarithm of the ratio; [rows, points]."""
    with np.errstate(over="ignore"):
        return np.exp(x[:, :1]), np.exp(x[:, 1:2] - x[:, 2:3] * np.log(ratio)), np.log(ratio)


def _linear(columns: Floats, loss: Floats) -> Floats:
    """The non-negative coefficients of least relative squares, none quite 0, so that logarithms exist."""
    coefficients, _ = nnls(columns / loss[:, None], np.ones(len(loss)))
    size = np.abs(columns / loss[:, None]).max(axis=0)
    return np.asarray(np.maximum(coefficients, 1e-3 / np.maximum(size, 1e-12)))


@dataclass
class Tissue:
    """L = L0 + A S1^-alpha - C S2 (Tissue et al. 2024, equation 2); where no rate falls, C stays out."""

    scale: float
    """The unit of S1."""
    fallen: float
    """The unit of S2."""
    exponents: tuple[float, ...] = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
    """Of S1, from which fits start."""
    names: tuple[str, ...] = field(init=False)
    """Of the parameters."""

    def __post_init__(self) -> None:
        self.names = ("L0", "A", "alpha", "C") if self.fallen > 0 else ("L0", "A", "alpha")

    def values(self, x: Floats, design: Design) -> Values:
        level, power, log = _power(x, design.s1 / self.scale)
        parts = [np.broadcast_to(level, power.shape), power, -power * log]
        whole = level + power
        if self.fallen > 0:
            drop = np.exp(x[:, 3:4]) * design.s2 / self.fallen
            parts.append(-drop)
            whole = whole - drop
        return whole, np.stack(parts, axis=1)

    def fenced(self, x: Floats) -> Mask:
        return np.asarray((x[:, 2] > 0) & (x[:, 2] < 5) & (np.abs(x) < 40).all(axis=1))

    def starts(self, design: Design, loss: Floats) -> Floats:
        rows = []
        for alpha in self.exponents:
            columns = [np.ones_like(loss), (design.s1 / self.scale) ** -alpha]
            if self.fallen > 0:
                columns.append(-design.s2 / self.fallen)
            level, factor, *rest = np.log(_linear(np.stack(columns, axis=1), loss))
            rows.append([level, factor, alpha, *rest])
        return np.array(rows)

    def natural(self, x: Floats) -> dict[str, Floats]:
        params = {
            "L0": np.exp(x[:, 0]), "A": np.exp(x[:, 1] + x[:, 2] * np.log(self.scale)), "alpha": x[:, 2]
        }  # fmt: skip
        return params | ({"C": np.exp(x[:, 3]) / self.fallen} if self.fallen > 0 else {})


@dataclass
class MultiPower:
    """L = L0 + A S1^-alpha - B sum_k fall_k (1 - (1 + C eta_k^-gamma S_k)^-beta) (Luo et al. 2025, equation
    3), the sum over every fall of the learning rate, S_k the learning rates since. Where none falls, B, C,
    beta and gamma stay out."""

    scale: float
    """The unit of S1."""
    fallen: float
    """The unit of falls."""
    rate: float
    """The unit of learning rates."""
    exponents: tuple[float, ...] = (0.25, 0.45, 0.8)
    """Of S1, from which fits start."""
    names: tuple[str, ...] = field(init=False)
    """Of the parameters."""

    def __post_init__(self) -> None:
        every = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
        self.names = every if self.fallen > 0 else every[:3]

    def values(self, x: Floats, design: Design) -> Values:
        step = max(1, CHUNK // max(1, len(design.falls.fall) if design.falls else 1, len(design.s1)))
        parts = [self._values(x[i : i + step], design) for i in range(0, len(x), step)]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _values(self, x: Floats, design: Design) -> Values:
        level, power, log = _power(x, design.s1 / self.scale)
        shape = power.shape
        parts = [np.broadcast_to(level, shape), power, -power * log]
        whole = level + power
        if self.fallen > 0:
            assert design.falls is not None
            drop = self._drop(x, design.falls, shape[1])
            whole = whole - drop[0]
            parts += [-part for part in drop]
        return whole, np.stack(parts, axis=1)

    def _drop(self, x: Floats, falls: Falls, points: int) -> list[Floats]:
        """The loss that annealing took, and its derivatives by log C, log beta and gamma: [rows, points]."""
        factor, reach, beta, gamma = (x[:, i : i + 1] for i in (3, 4, 5, 6))
        rate = np.log(falls.rate / self.rate)
        inside = np.exp(np.minimum(reach - gamma * rate, 60.0)) * (falls.since / self.scale)
        grown = np.log1p(inside)
        left = np.exp(-np.exp(beta) * grown)
        weight = np.exp(factor) * falls.fall / self.fallen
        shared = weight * left * np.exp(beta)
        by_beta, by_reach = shared * grown, shared * (inside / (1 + inside))
        columns = (weight - weight * left, by_reach, by_beta, -by_reach * rate)
        some, first = np.unique(falls.point, return_index=True)
        sums = [np.zeros((len(x), points)) for _ in columns]
        for whole, column in zip(sums, columns, strict=True):
            whole[:, some] = np.add.reduceat(column, first, axis=1)
        return sums

    def fenced(self, x: Floats) -> Mask:
        good = (x[:, 2] > 0) & (x[:, 2] < 5) & (np.abs(x) < 40).all(axis=1)
        if self.fallen > 0:
            good &= (np.abs(x[:, 4]) < 15) & (np.abs(x[:, 5]) < 5) & (np.abs(x[:, 6]) < 4)
        return np.asarray(good)

    def starts(self, design: Design, loss: Floats) -> Floats:
        rows = []
        reaches, betas, gammas = np.log([0.3, 3.0, 30.0]), np.log([0.2, 0.6]), (0.0, 0.6)
        shapes = list(itertools.product(reaches, betas, gammas)) if self.fallen > 0 else [()]
        for alpha, shape in itertools.product(self.exponents, shapes):
            columns = [np.ones_like(loss), (design.s1 / self.scale) ** -alpha]
            if shape:
                assert design.falls is not None
                shaped = np.array([[0.0, 0.0, 0.0, 0.0, *shape]])
                columns.append(-self._drop(shaped, design.falls, len(loss))[0][0])
            level, factor, *rest = np.log(_linear(np.stack(columns, axis=1), loss))
            rows.append([level, factor, alpha, *rest, *shape])
        return np.array(rows)

    def natural(self, x: Floats) -> dict[str, Floats]:
        params = {
            "L0": np.exp(x[:, 0]), "A": np.exp(x[:, 1] + x[:, 2] * np.log(self.scale)), "alpha": x[:, 2]
        }  # fmt: skip
        if self.fallen > 0:
            reach = np.exp(x[:, 4] + x[:, 6] * np.log(self.rate)) / self.scale
            params |= {"B": np.exp(x[:, 3]) / self.fallen, "C": reach}
            params |= {"beta": np.exp(x[:, 5]), "gamma": x[:, 6]}
        return params


def refine(
    form: Form, design: Design, log_loss: Floats, x: Floats, delta: float, weights: Floats | None = None,
    iterations: int = 200, tolerance: float = 1e-12,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Levenberg-Marquardt from every row of x [rows, k] on the sum of Huber losses of log residuals.

    log_loss and weights are [points] or [rows, points]. The matrix counts points inside delta in full and
    the others a little, so that steps near the minimum are Newton's. Returns x and the sums, in units of
    delta^2: [rows].
    """
    x = np.array(x, dtype=np.float64)
    target = np.broadcast_to(log_loss, (len(x), len(design.s1)))
    many = None if weights is None else np.broadcast_to(weights, target.shape)
    f, slope, bend = _system(form, design, x, target, delta, many)
    damping, active = np.full(len(x), 1e-2), np.isfinite(f)
    stalled = np.zeros(len(x), dtype=np.int64)
    for _ in range(iterations):
        i = np.flatnonzero(active)
        if not i.size:
            break
        size = np.diagonal(bend[i], axis1=1, axis2=2)
        size = size + 1e-9 * size.max(axis=1, keepdims=True) + 1e-300
        ridge = bend[i] + np.eye(x.shape[1]) * (damping[i, None] * size)[:, None, :]
        step = -np.linalg.solve(ridge, slope[i][:, :, None])[:, :, 0]
        trial = _bounded(x[i] + np.clip(step, -2, 2))
        new_f, new_slope, new_bend = _system(
            form, design, trial, target[i], delta, None if many is None else many[i]
        )
        better = new_f < f[i]
        won = i[better]
        small = better & (f[i] - new_f <= tolerance * f[i])
        x[won], f[won] = trial[better], new_f[better]
        slope[won], bend[won] = new_slope[better], new_bend[better]
        damping[i] = np.where(better, damping[i] / 4, damping[i] * 5)
        stalled[i] = np.where(small, stalled[i] + 6, np.where(better, 0, stalled[i] + 1))
        active[i] = (stalled[i] < 12) & (damping[i] < 1e12)
        damping = np.maximum(damping, 1e-10)
    return x, f


def _bounded(x: Floats) -> Floats:
    """L0 and the factor of annealing no further below than where they stop to matter."""
    bounded = x.copy()
    bounded[:, 0] = np.maximum(x[:, 0], LEAST)
    bounded[:, 3:4] = np.maximum(x[:, 3:4], LEAST)
    return bounded


def _system(
    form: Form, design: Design, x: Floats, target: Floats, delta: float, weights: Floats | None
) -> tuple[Floats, Floats, Floats]:
    """The objective, its gradient and its matrix: [rows], [rows, k], [rows, k, k]; infinite outside."""
    whole, parts = form.values(x, design)
    good = form.fenced(x) & np.isfinite(whole).all(axis=1) & (whole > 0).all(axis=1)
    whole = np.where(good[:, None], whole, 1.0)
    parts = np.where(good[:, None, None], parts, 0.0) / whole[:, None, :]
    residual = (np.log(whole) - target) / delta
    size = np.abs(residual)
    value = np.where(size <= 1, 0.5 * residual**2, size - 0.5)
    slope = np.clip(residual, -1, 1)
    curve = np.where(size <= 1, 1.0, 0.1 / np.maximum(size, 1.0))
    if weights is not None:
        value, slope, curve = value * weights, slope * weights, curve * weights
    gradient = np.einsum("rkp,rp->rk", parts, slope) / delta
    matrix = np.matmul(parts * curve[:, None, :], parts.transpose(0, 2, 1)) / delta**2
    return np.where(good, value.sum(axis=1), np.inf), gradient, matrix
