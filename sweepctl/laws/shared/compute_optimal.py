"""What the laws of compute-optimal training share: N*(C), D*(C) and L*(C) as power laws of C.

N* = k_n C^a, D* = k_d C^b, L* = E + k_l C^c with E = 0 where there is no floor, with C in FLOPs, L in nats
a token and natural logarithms: the intercept of log N* over log C is log k_n. M* = k_m C^a_m are FLOPs a
token (DeepSeek-AI 2024, arXiv 2401.02954, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sweepctl.laws.fit import Estimate, Fit, Target, estimate
from sweepctl.laws.observations import Floats
from sweepctl.laws.shared.new_run import Measured

NAMES = {"n": ("a", "k_n"), "d": ("b", "k_d"), "loss": ("c", "k_l"), "m": ("a_m", "k_m")}
"""What is a power of C -> its exponent and its factor."""


def powers(log_c: Floats, logs: Mapping[str, Floats], weights: Floats) -> dict[str, Floats]:
    """Exponent and factor of every role by weighted least squares on natural logarithms.

    log_c: [points]; logs: role -> [points] or [replicates, points], NaN where there is none; weights of the
    squares: [points] or [replicates, points]. Returns scalars or [replicates] by name; NaN where fewer than
    two values of C have weight.
    """
    parameters: dict[str, Floats] = {}
    middle = log_c.mean()
    x = log_c - middle
    for role, values in logs.items():
        there = np.isfinite(values)
        w, y = np.where(there, weights, 0.0), np.where(there, values, 0.0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            share = w / w.sum(-1, keepdims=True)
            mean_x, mean_y = (share * x).sum(-1), (share * y).sum(-1)
            off = x - mean_x[..., None]
            spread = (share * off**2).sum(-1)
            slope = (share * off * y).sum(-1) / np.where(spread > 1e-12, spread, np.nan)
            exponent, factor = NAMES[role]
            parameters[exponent] = slope
            parameters[factor] = np.exp(mean_y - slope * (mean_x + middle))
    return parameters


def whole(samples: Mapping[str, Floats]) -> dict[str, Floats]:
    """The replicates in which every parameter is a finite number."""
    if not samples:
        return {}
    good = np.all([np.isfinite(values) for values in samples.values()], axis=0)
    return {name: values[good] for name, values in samples.items()}


def predict(fit: Fit, target: Target, optima: Sequence[Mapping[str, Any]] = ()) -> dict[str, Estimate]:
    """N*, D*, tokens a parameter, the least loss and, where the law was fitted over them, FLOPs a token at
    target["flops"] FLOPs. `optima` are what it was fitted to, one a budget, with its flops, n, d and loss:
    with them comes the interval of another budget's."""
    c, params, drawn = target["flops"], fit.params, fit.arrays()

    def at(role: str, values: Mapping[str, Any]) -> Any:
        exponent, factor = NAMES[role]
        return values[factor] * c ** values[exponent]

    floor, floors = params.get("E", 0.0), drawn.get("E", 0.0)
    estimates = {role: estimate(at(role, params), at(role, drawn)) for role in ("n", "d")}
    ratio, ratios = at("d", params) / at("n", params), at("d", drawn) / at("n", drawn)
    estimates |= {
        "tokens_per_parameter": estimate(ratio, ratios),
        "loss": estimate(floor + at("loss", params), floors + at("loss", drawn)),
    }
    if "a_m" in params:
        estimates["flops_per_token"] = estimate(at("m", params), at("m", drawn))
    if len(optima):
        for role in ("n", "d", "loss"):
            measured = _measured(role, params, optima)
            run = measured.prediction((c,), estimates[role].interval, fit.backtests if role == "loss" else ())
            estimates[role] = run or estimates[role]
    return estimates


def _measured(role: str, params: Mapping[str, float], optima: Sequence[Mapping[str, Any]]) -> Measured:
    """The law of one of them, and the optima that it was fitted to."""
    exponent, factor = NAMES[role]
    names = [factor, exponent, *(["E"] if role == "loss" and "E" in params else [])]

    def law(values: Mapping[str, float], c: Any) -> Any:
        return values.get("E", 0.0) + values[factor] * c ** values[exponent]

    flops, values = (np.array([optimum[key] for optimum in optima]) for key in ("flops", role))
    return Measured(law, {name: params[name] for name in names}, (flops,), values)
