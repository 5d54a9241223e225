"""The first step of the downstream law: a task's loss by parameters and tokens, or by compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sweepctl.laws.fit import LEVEL
from sweepctl.laws.numerics import linear, profile
from sweepctl.laws.observations import CannotFit, Floats
from sweepctl.laws.parametric import loss as loss_at
from sweepctl.laws.parametric import search

Form = Literal["nd", "flops", "log_flops"]
NAMES = {"nd": search.PARAMS, "flops": ("E", "A", "alpha"), "log_flops": ("intercept", "slope")}
LEAST = {"nd": 6, "flops": 4, "log_flops": 3}
EXPONENTS = (0.005, 2.0)


@dataclass(frozen=True)
class Choice:
    """The options of the downstream law that are about this step."""

    form: Form
    """What the task's loss goes by, and how."""
    objective: search.Objective
    """What is least at the fit."""
    delta: float
    """Of the Huber loss."""
    bounds: Literal["nonnegative", "none"]
    """Of the parameters."""


@dataclass(frozen=True)
class FirstStep:
    """The fit of this step."""

    params: dict[str, float]
    """At the optimum."""
    samples: dict[str, Floats]
    """Of every replicate."""
    objective: float
    """At the optimum."""
    starts: tuple[int, int]
    """Tried, and agreeing with the best."""
    flags: list[str] = field(default_factory=list)
    """What to beware of."""


def value(form: str, params: Any, at: Mapping[str, Any]) -> Any:
    """The task loss at n, d or flops, in the unit it was fitted in; arguments broadcast."""
    if form == "nd":
        return loss_at(params, at["n"], at["d"])
    if form == "flops":
        return params["E"] + params["A"] * at["flops"] ** -params["alpha"]
    return params["intercept"] + params["slope"] * np.log10(at["flops"])


def solve(ends: Mapping[str, Floats], choice: Choice, weights: Floats) -> FirstStep:
    """The step fitted to runs: `ends` are n, d or flops and task_loss [runs], weights [replicates, runs].

    Raises:
        CannotFit: too few runs or values of what it goes by, or no column of it.
    """
    names, loss = NAMES[choice.form], ends["task_loss"]
    roles = ("n", "d") if choice.form == "nd" else ("flops",)
    for role in roles:
        if role not in ends:
            raise CannotFit(f"Step 1 is {choice.form} and needs a column of {role}: name it with --{role}.")
    if len(loss) < LEAST[choice.form]:
        raise CannotFit(
            f"Step 1 has {len(names)} parameters and needs {LEAST[choice.form]} runs; there are {len(loss)}."
        )
    for role in roles:
        needed = 2 if choice.form == "nd" else len(names)
        if len(np.unique(ends[role])) < needed:
            there = len(np.unique(ends[role]))
            raise CannotFit(f"Step 1 needs runs at {needed} values of {role}; there are {there}.")
    if np.ptp(loss) < 1e-9:
        raise CannotFit(f"The runs all end at the task loss {loss[0]:g}: there is no law to fit.")
    if choice.form == "nd":
        return _by_size(ends, choice, weights)
    return _by_power(ends, choice, weights) if choice.form == "flops" else _by_line(ends, weights)


def _by_size(ends: Mapping[str, Floats], choice: Choice, weights: Floats) -> FirstStep:
    options = search.Options(
        replicates=0, objective=choice.objective, delta=choice.delta, bounds=choice.bounds
    )
    n, d, loss = ends["n"], ends["d"], ends["task_loss"]
    whole = search.solve(n, d, loss, options)
    params = dict(zip(search.PARAMS, whole.parameters[0].tolist(), strict=True))
    samples: dict[str, Floats] = {}
    if len(weights):
        drawn = search.refit(n, d, loss, options, whole, weights).parameters
        drawn = np.where(((weights > 0).sum(axis=1) >= len(params))[:, None], drawn, np.nan)
        samples = dict(zip(search.PARAMS, drawn.T, strict=True))
    flags = []
    together = abs(np.corrcoef(np.log(n), np.log(d))[0, 1])
    if choice.bounds == "nonnegative":
        least = {"E": 0.0, "A": 1.0, "B": 1.0, "alpha": 0.0, "beta": 0.0}
        flags += [f"at_bound:{name}" for name, low in least.items() if params[name] <= low + 1e-9]
    if together > 0.98:
        flags.append("collinear:n_d")
    flat = {name for name, wide in zip(search.PARAMS, whole.spread, strict=True) if not np.isfinite(wide)}
    flat |= {name for name, values in (("alpha", n), ("beta", d)) if len(np.unique(values)) < 3}
    if together > 0.999:
        flat |= {"A", "B", "alpha", "beta"}
    if "E" in samples and np.nanpercentile(samples["E"], 2.5) < 0.02 * loss.min():
        flat.add("E")
    flags += [f"not_identified:{name}" for name in search.PARAMS
              if name in flat and f"at_bound:{name}" not in flags]  # fmt: skip
    return FirstStep(params, samples, float(whole.objectives[0]), whole.starts, flags)


def _by_power(ends: Mapping[str, Floats], choice: Choice, weights: Floats) -> FirstStep:
    loss, log_c = ends["task_loss"], np.log(ends["flops"])
    center = log_c.mean()

    def columns(alpha: Floats) -> Floats:
        falling = np.exp(-alpha[:, None] * (log_c - center))
        return np.stack([np.ones_like(falling), falling])

    grid = np.geomspace(*EXPONENTS, 60)
    least = np.zeros(2) if choice.bounds == "nonnegative" else None
    whole = profile.search(columns, loss[None], np.ones((1, len(loss))), grid, least, 70)
    drawn = profile.search(columns, np.tile(loss, (len(weights), 1)), weights, grid, least, 25) \
        if len(weights) else None  # fmt: skip

    def natural(profiled: profile.Profiled) -> dict[str, Floats]:
        e, a = profiled.coefficients.T
        return {"E": e, "A": a * np.exp(profiled.theta * center), "alpha": profiled.theta}

    params = {name: float(values[0]) for name, values in natural(whole).items()}
    samples: dict[str, Floats] = {}
    if drawn is not None:
        enough = (weights > 0).sum(axis=1) >= 3
        samples = {name: np.where(enough, values, np.nan) for name, values in natural(drawn).items()}
    flags = []
    if params["alpha"] <= EXPONENTS[0] * 1.01 or params["alpha"] >= EXPONENTS[1] / 1.01:
        flags += [f"not_identified:{name}" for name in ("E", "A", "alpha")]
    elif least is not None and params["E"] <= 0:
        flags.append("at_bound:E")
    return FirstStep(params, samples, float(whole.squares[0]), (whole.minima, 1), flags)


def _by_line(ends: Mapping[str, Floats], weights: Floats) -> FirstStep:
    loss, x = ends["task_loss"], np.log10(ends["flops"])
    center = x.mean()
    design = np.stack([np.ones_like(x), x - center], axis=1)

    def natural(coefficients: Floats) -> dict[str, Floats]:
        return {
            "intercept": coefficients[..., 0] - coefficients[..., 1] * center,
            "slope": coefficients[..., 1],
        }

    line = linear.least_squares(design, loss)
    left = loss - design @ line
    params = {name: float(value) for name, value in natural(line).items()}
    samples: dict[str, Floats] = {}
    if len(weights):
        enough = (weights > 0).sum(axis=1) >= 2
        drawn = natural(linear.least_squares(design, loss, weights))
        wide = linear.widening(len(loss), 2, LEVEL)
        samples = {
            name: np.where(enough, params[name] + wide * (values - params[name]), np.nan)
            for name, values in drawn.items()
        }
    return FirstStep(params, samples, float(left @ left), (1, 1))
