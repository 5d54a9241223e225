"""Learning rate and batch: power laws through the near-optimal runs of every cell of equal N and D.

DeepSeek-AI 2024 (arXiv 2401.02954, section 3.1) take the runs within 0.25 % of the least loss of their cell
and fit LR and batch as powers of compute. Li et al. 2025 (arXiv 2503.04715, section 3) fit LR(N, D) and
B(D) to such runs: least squares on natural logarithms, every run of weight one. A parabola over log LR a
cell, whose vertex must lie inside what was tried, is the alternative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sweepctl.laws.fit import Estimate, Fit, Target, claim, estimate
from sweepctl.laws.hyperparameters.gaps import gap, judged
from sweepctl.laws.hyperparameters.optima import OptimumSearch, at_edge, optima, swept
from sweepctl.laws.hyperparameters.powers import PowerLaw, power_at, through
from sweepctl.laws.law import Law, Resampling, option
from sweepctl.laws.numerics.linear import collinear
from sweepctl.laws.observations import CannotFit, Floats, Observations
from sweepctl.laws.shared.cells import Cell, cells_of, center
from sweepctl.laws.shared.new_run import Measured

NAME = "hyperparameters"
ROLES: tuple[Literal["lr", "batch"], ...] = ("lr", "batch")
NAMES = {"lr": "learning rate", "batch": "batch"}
COLLINEAR = 10.0
"""Condition number of centred, scaled logarithms; of two predictors, a correlation of 0.98."""

Predictor = Literal["n", "d", "flops", "batch"]
FORMS: dict[str, dict[str, tuple[str, ...]]] = {
    "stepfun": {"lr": ("n", "d"), "batch": ("d",)},
    "deepseek": {"lr": ("flops",), "batch": ("flops",)},
}


@dataclass(frozen=True, slots=True)
class Options(Resampling):
    """Every choice of the protocol."""

    form: Literal["stepfun", "deepseek", "free"] = option(
        "stepfun", "LR(N, D) and B(D); LR(C) and B(C); or what lr_over and batch_over name"
    )
    lr_over: tuple[Predictor, ...] | None = option(None, 'predictors of LR, as ["n","d"]; none: the form\'s')
    batch_over: tuple[Literal["n", "d", "flops"], ...] | None = option(None, "the same for the batch")
    optimum: Literal["near", "argmin", "quadratic"] = option(
        "near", "runs near the least loss of their cell; the best run; vertex of a parabola over log"
    )
    threshold: float = option(0.0025, "near: loss / least loss - 1 stays below this")
    window: float = option(0.02, "quadratic: the same, for the points of a parabola")
    slices: Literal["best", "each"] = option(
        "best", "quadratic: LR at the best run's batch, or at each batch"
    )
    tolerance: float = option(0.02, "runs within this share of each other in N and in D are one cell")
    weighting: Literal["rows", "cells"] = option("rows", "what weighs the same: runs, or cells")
    resample: Literal["cells", "rows"] = option("cells", "what the replicates draw anew")
    judge: Literal["none", "stepfun", "deepseek"] = option("none", "a published rule to judge on these runs")

    def __post_init__(self) -> None:
        Resampling.__post_init__(self)
        if not 0 < self.threshold < 1 or self.window <= 0:
            raise CannotFit("hyperparameters needs a threshold between 0 and 1 and a window above 0.")
        if not 0 <= self.tolerance < 1:
            raise CannotFit(f"hyperparameters needs a tolerance from 0 to 1; it is {self.tolerance:g}.")
        if self.form == "free" and self.lr_over is None and self.batch_over is None:
            raise CannotFit("The free form needs predictors: give lr_over, batch_over or both.")

    def over(self, role: str) -> tuple[str, ...] | None:
        """The predictors of a hyperparameter; None where the free form does not ask for it."""
        chosen = self.lr_over if role == "lr" else self.batch_over
        return tuple(dict.fromkeys(chosen)) if chosen is not None else FORMS.get(self.form, {}).get(role)

    def search(self) -> OptimumSearch:
        """How optima are looked for."""
        return OptimumSearch(self.optimum, self.threshold, self.window, self.slices)


def fit(data: Observations, options: Options) -> Fit:
    """Power laws of learning rate, batch or both, with what they would have cost in every cell.

    Raises:
        CannotFit: a column is missing, neither was swept, or there are fewer cells with an optimum than a law
            has parameters. Where this is so of one of the two, the other is fitted and `not_fitted` flagged.
    """
    present = [role for role in ROLES if role in data and options.over(role) is not None]
    if not present:
        raise CannotFit("hyperparameters needs the learning rate or the batch: name it with --lr or --batch.")
    if not len(data):
        raise CannotFit("There are no runs to take the learning rate or the batch from.")
    if len(data) > 1 and np.ptp(data.loss) <= 1e-12 * data.loss.max():
        raise CannotFit(f"The {len(data)} losses are all {data.loss[0]:g}: no run is better than another.")
    data.require(*(name for role in present for name in options.over(role) or ()))
    places = ("n", "d") if "n" in data and "d" in data else ("n", "d", "flops")
    cells = cells_of(data, tuple(role for role in places if role in data), options.tolerance)
    laws: dict[str, PowerLaw] = {}
    refused: dict[str, str] = {}
    for role in present:
        try:
            laws[role] = _fit(data, cells, role, present, options)
        except CannotFit as error:
            refused[role] = str(error)
    if not laws:
        raise CannotFit(next(iter(refused.values())))
    return _assemble(data, options, cells, laws, refused)


def predict(fit: Fit, target: Target) -> dict[str, Estimate]:
    """The learning rate and the batch in tokens, as far as the target says what they depend on.

    C at an N and D is 6 N D, where the fit counted it so.

    Raises:
        CannotFit: the target does not say what either depends on.
    """
    at: dict[str, Any] = dict(target)
    if {"n", "d"} <= set(at) and fit.accounting.get("flops", "six_n") == "six_n":
        at.setdefault("flops", 6 * at["n"] * at["d"])
    drawn, estimates = dict(at), {}
    for role in ("batch", "lr"):
        over = fit.details["over"].get(role)
        if over is None or role in target or not set(over) <= set(at):
            continue
        at[role] = power_at(fit.params, role, over, at)
        drawn[role] = power_at({**fit.params, **fit.arrays()}, role, over, drawn)
        of_law = estimate(at[role], drawn[role])
        another = _measured(fit, role, over).prediction([at[name] for name in over], of_law.interval)
        estimates[role] = another or of_law
    if not estimates:
        asked = " or ".join(",".join(over) for over in fit.details["over"].values())
        raise CannotFit(f"This fit predicts from {asked}, not from {','.join(target)}.")
    return {role: estimates[role] for role in ROLES if role in estimates}


def _measured(fit: Fit, role: str, over: Sequence[str]) -> Measured:
    """One law and the optima that it goes through; those of one cell are off it together."""
    points = fit.details["points"][role]
    names = [f"{role}_factor", *(f"{role}_{name}" for name in over)]

    def law(values: Mapping[str, float], *at: Any) -> Any:
        return power_at(values, role, over, dict(zip(over, at, strict=True)))

    cells = points["cell"] if len(set(points["cell"])) < len(points["cell"]) else ()
    places = [np.array(points[name]) for name in over]
    return Measured(law, {name: fit.params[name] for name in names}, places, np.array(points["value"]), cells)


def _fit(
    data: Observations, cells: list[Cell], role: str, present: Sequence[str], options: Options
) -> PowerLaw:
    """One law.

    Raises:
        CannotFit: the hyperparameter was not swept, or the law has too few optima.
    """
    over = options.over(role) or ()
    if not any(swept(data, cell, role) for cell in cells):
        raise CannotFit(
            f"No cell of equal N and D was trained at two values of the {NAMES[role]}: no optimum shows."
        )
    other = next((name for name in present if name != role), None)
    points = optima(data, cells, role, other, options.search())
    with_optimum = len(np.unique(points.cell))
    least = max(2, len(over) + 1)
    if with_optimum < least:
        raise CannotFit(
            f"The law of the {NAMES[role]} over {', '.join(over) or 'nothing'} needs optima in {least} cells;"
            f" {with_optimum} of {len(cells)} cells have one."
        )
    predictors = {name: np.array([center(data[name][rows]) for rows in points.rows]) for name in over}
    return through(role, points, predictors, options.weighting, options.resample, options)


def _assemble(
    data: Observations,
    options: Options,
    cells: list[Cell],
    laws: dict[str, PowerLaw],
    refused: dict[str, str],
) -> Fit:
    used = np.zeros(len(data), dtype=bool)
    for law in laws.values():
        used[np.concatenate(law.optima.rows)] = True
    costs = _costs(data, cells, laws, options)
    tables = _tables(data, cells, laws, costs)
    reason = {
        "near": f"its loss is not within {options.threshold:.2%} of the least of its cell",
        "argmin": "another run of its cell has a lower loss",
        "quadratic": "its cell shows no minimum inside what was tried",
    }[options.optimum]
    held = {"lr": "one learning rate", "batch": "one batch"}
    still = np.ones(len(data), dtype=bool)
    for cell in cells:
        still[cell.rows] = any(swept(data, cell, role) for role in laws)
    kept = data.keep(still, f"its cell was trained at {' and '.join(held[role] for role in laws)}")
    kept = kept.keep(used[still], reason)
    derived, samples = _summary(costs, options)
    for role, law in laws.items():
        derived[f"{role}_r2"], drawn = law.r2
        samples |= {**law.samples, f"{role}_r2": drawn} if law.samples else {}
    return claim(
        NAME,
        kept,
        options,
        {name: value for law in laws.values() for name, value in law.params().items()},
        sum(law.squares for law in laws.values()),
        samples if options.replicates else {},
        "rows" if options.resample == "rows" else "cells, widened for their number",
        derived={**derived, "cells": len(cells), "runs": len(kept)},
        flags=_flags(tables, laws, refused),
        details={
            "cells": tables,
            "over": {role: list(law.predictors) for role, law in laws.items()},
            "points": {role: _points(law, cells) for role, law in laws.items()},
            "not_fitted": refused,
        },
    )


def _flags(tables: list[dict[str, Any]], laws: dict[str, PowerLaw], refused: dict[str, str]) -> list[str]:
    """Cells whose minimum was not seen, laws that could not be fitted, and what the others do not say."""
    flags = [f"edge_minimum:{cell['cell']}" for cell in tables if cell["edge"]]
    flags += [
        f"no_minimum:{cell['cell']}"
        for cell in tables
        if not cell["edge"] and any(cell["optima"][role] == 0 for role in cell["swept"])
    ]
    flags += [f"not_fitted:{role}" for role in refused]
    return list(dict.fromkeys(flags + [flag for law in laws.values() for flag in _design(law)]))


def _design(law: PowerLaw) -> list[str]:
    """Predictors that were not varied, that vary together, or too few cells to tell scatter."""
    logs = {name: np.log(values) for name, values in law.predictors.items()}
    still = [name for name, values in logs.items() if np.ptp(values) < 1e-6]
    moving = [name for name in logs if name not in still]
    flags = []
    if len(moving) > 1:
        columns = np.stack([logs[name] for name in moving], axis=1)
        if collinear(columns, COLLINEAR):
            flags.append("collinear:" + "_".join(moving))
        if collinear(columns, 1e6):
            still += moving
    flags += [f"not_identified:{law.role}_{name}" for name in still]
    flags += [f"not_identified:{law.role}_factor"] if still else []
    if len(np.unique(law.optima.cell)) <= len(logs) + 1:
        flags.append(f"few_cells:{law.role}")
    return flags


def _costs(
    data: Observations, cells: list[Cell], laws: dict[str, PowerLaw], options: Options
) -> dict[str, Floats]:
    """What the law, and a published rule, would have cost in every cell, in percent of its least loss:
    name -> [cells], NaN where the setting lies outside what was tried."""
    costs = {"gap": np.full(len(cells), np.nan)}
    for number, cell in enumerate(cells):
        if not all(swept(data, cell, role) for role in laws):
            continue
        at: dict[str, Any] = {r: center(data[r][cell.rows]) for r in ("n", "d", "flops") if r in data}
        for role in ("batch", "lr"):
            if role in laws and set(laws[role].predictors) <= set(at):
                at[role] = laws[role].at(at)
        if set(laws) <= set(at):
            settings = {role: np.array([at[role]]) for role in laws}
            costs["gap"][number] = 100 * gap(data, cell, settings)[0]
    if options.judge != "none":
        costs["judged_gap"] = 100 * judged(data, cells, list(laws), options.judge)
    return costs


def _summary(costs: dict[str, Floats], options: Options) -> tuple[dict[str, float], dict[str, Floats]]:
    """Mean and largest over the cells that hold the setting, and how many do not; replicates draw cells."""
    derived: dict[str, float] = {}
    samples: dict[str, Floats] = {}
    for name, gaps in costs.items():
        inside = gaps[np.isfinite(gaps)]
        derived[f"{name}_outside"] = len(gaps) - len(inside)
        if len(inside):
            draw = np.random.Generator(np.random.PCG64(options.seed))
            drawn = inside[draw.integers(0, len(inside), (options.replicates, len(inside)))]
            derived |= {f"{name}_mean": float(inside.mean()), f"{name}_max": float(inside.max())}
            samples |= {f"{name}_mean": drawn.mean(axis=1), f"{name}_max": drawn.max(axis=1)}
    return derived, samples


def _tables(
    data: Observations, cells: list[Cell], laws: dict[str, PowerLaw], costs: dict[str, Floats]
) -> list[dict[str, Any]]:
    """One row a cell: where it is, its best run, whether that lies at an edge, and the gaps there."""
    rows = []
    for number, cell in enumerate(cells):
        best = cell.rows[np.argmin(data.loss[cell.rows])]
        row: dict[str, Any] = {"cell": cell.name, "runs": len(cell.rows), "loss": float(data.loss[best])}
        row |= {r: center(data[r][cell.rows]) for r in ("n", "d", "flops") if r in data}
        row |= {role: float(data[role][best]) for role in laws}
        row["swept"] = [role for role in laws if swept(data, cell, role)]
        row["edge"] = [role for role in row["swept"] if at_edge(data, cell, role)]
        row["optima"] = {role: int((law.optima.cell == number).sum()) for role, law in laws.items()}
        row |= {name: float(g[number]) if np.isfinite(g[number]) else None for name, g in costs.items()}
        rows.append(row)
    return rows


def _points(law: PowerLaw, cells: list[Cell]) -> dict[str, Any]:
    fitted = np.asarray(law.at(law.predictors)) * np.ones(len(law.optima.value))
    return {
        "value": law.optima.value.tolist(),
        "fitted": fitted.tolist(),
        "cell": [cells[number].name for number in law.optima.cell],
        **{name: values.tolist() for name, values in law.predictors.items()},
    }


LAW = Law(
    name=NAME,
    formula="LR = lr_factor N^lr_n D^lr_d, B = batch_factor D^batch_d; or both as powers of C",
    source="DeepSeek-AI 2024, section 3.1; Li et al. 2025, section 3",
    options=Options,
    needs=("loss",),
    takes=("lr", "batch", "n", "d", "flops", "group"),
    fit=fit,
    predict=predict,
    targets=(("n", "d"), ("flops",), ("d",), ("n",), ("n", "d", "batch"), ("flops", "batch")),
    reduced=False,
    held_out="none",
)
