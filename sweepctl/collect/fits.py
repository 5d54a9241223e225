"""Fits of sweeps and tables: made and asked for predictions; those of a sweep are kept as JSON beside it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sweepctl.collect.observations import Reading, observations
from sweepctl.errors import DamagedFile, InvalidValue, RequestError, unknown_name
from sweepctl.laws.law import LABELS, CannotFit, Fit, Law, Observations, Prediction
from sweepctl.laws.registry import LAWS
from sweepctl.plan.plan import Plan
from sweepctl.spec.accounting import FLOP_COUNTS, PARAMETER_COUNTS, Accounting
from sweepctl.spec.build import build
from sweepctl.spec.learning_rate import Drop, LearningRateCurve
from sweepctl.store.files import read_json, storage, write_json
from sweepctl.store.workspace import Sweep

ALL = ("parametric", "isoflop")
"""The laws that `fit` without --law makes."""

PATH_ROWS = 64
"""Parts of a branch's decay between which its learning rate is taken as linear."""

CONVENTIONS = [(n, c) for n in PARAMETER_COUNTS for c in FLOP_COUNTS]


def law(name: str) -> Law:
    """A law by name.

    Raises:
        RequestError: there is none.
    """
    if name not in LAWS:
        raise unknown_name("law", name, LAWS)
    return LAWS[name]


def read_options(texts: list[str]) -> dict[str, Any]:
    """key=value texts to a mapping, values as JSON where they are, else as text.

    Raises:
        RequestError: a text has no key.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RequestError(f"--option {text!r} is not key=value.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def read_targets(texts: list[str], law: Law) -> list[dict[str, float]]:
    """ "flops=1e21" and "n=7e9,d=2e12" to targets of a law.

    Raises:
        RequestError: a text is not one, or the law has no prediction for it.
    """
    found = []
    known = " or ".join(",".join(f"{role}=..." for role in roles) for roles in law.targets)
    for text in texts:
        target = {}
        for part in text.split(","):
            role, _, value = part.partition("=")
            try:
                target[role.strip()] = float(value)
            except ValueError:
                raise RequestError(f"--at {text!r} is not role=number; {law.name} takes {known}.") from None
            if not 0 < target[role.strip()] < math.inf:
                raise InvalidValue("--at", text, "finite numbers above 0")
        if not any(set(roles) == set(target) for roles in law.targets):
            raise RequestError(f"{law.name} predicts at {known or 'nothing'}, not at {text!r}.")
        found.append(target)
    return found


def fit(chosen: Law, data: Observations, options: dict[str, Any]) -> Fit:
    """Fit a law.

    Raises:
        RequestError: an option is not valid, or the data do not carry the law.
    """
    try:
        for role in chosen.needs:
            _ = data.label(role) if role in LABELS else data[role]
        if not len(data):
            raise CannotFit(f"There is no row for {chosen.name} to fit.")
        with computing(chosen):
            made = chosen.fit(data, build(chosen.options, options, "option"))
    except CannotFit as error:
        reasons = Counter(reason for _, reason in data.excluded)
        left_out = "; ".join(f"{number} left out: {reason}" for reason, number in reasons.items())
        raise RequestError(f"{error}{f' ({left_out})' if left_out else ''}") from None
    if chosen.reduced and data.accounting.get("reduction", "none") == "none" and _repeats(data):
        made.flags.append("repeated:n_d")
    if data.accounting.get("schedule") == "wsd-s":  # another law than that of runs with decays of their own
        made.flags.append("schedule:wsd-s")
    return made


@contextlib.contextmanager
def computing(chosen: Law) -> Iterator[None]:
    """What numbers many orders of magnitude apart lead to is a refusal, not a traceback or a warning.

    Raises:
        CannotFit: the arithmetic failed.
    """
    try:
        with np.errstate(all="ignore"):
            yield
    except (ArithmeticError, np.linalg.LinAlgError, MemoryError) as error:
        told = str(error).partition("\n")[0] or type(error).__name__
        raise CannotFit(
            f"{chosen.name} cannot be computed from these numbers and options ({told}): is a row, a target "
            "or an option orders of magnitude from the rest?"
        ) from None


def predict(chosen: Law, made: Fit, targets: list[dict[str, float]]) -> None:
    """Put predictions at the targets on the fit.

    Raises:
        RequestError: this fit has no prediction for a target.
    """
    for target in targets:
        try:
            with computing(chosen):
                found = chosen.predict(made, target)
        except CannotFit as error:
            raise RequestError(str(error)) from None
        row: dict[str, Any] = {"at": target, **{name: one.value for name, one in found.items()}}
        row["intervals"] = {name: list(one.interval) for name, one in found.items()}
        for name, one in found.items():
            if isinstance(one, Prediction):
                row["intervals"][f"{name}_of_a_run"] = list(one.run_interval)
        made.predictions.append(row)


def fit_all(
    read: Callable[[Law], Observations], options: dict[str, Any]
) -> tuple[dict[str, Fit], dict[str, str]]:
    """The loss laws that the data carry, and why the others were refused."""
    made, refused = {}, {}
    for name in ALL:
        try:
            made[name] = fit(LAWS[name], read(LAWS[name]), options)
        except RequestError as error:
            refused[name] = str(error)
    return made, refused


def sweep_reading(accounting: Accounting, reading: Reading = Reading()) -> Reading:  # noqa: B008
    """How a sweep's tables are read under an accounting."""
    columns = {
        "n": f"n_{accounting.parameters}",
        "d": "tokens",
        "flops": f"flops_{accounting.flops}",
        "loss": "loss_nats",
        "batch": "batch_tokens",
        "run": "job",
    }
    counted = {"parameters": accounting.parameters, "flops": accounting.flops, "loss": "nats a token"}
    return replace(reading, columns={**columns, **reading.columns}, row="job", accounting=counted)


def sweep_table(plans: dict[str, Plan], frames: dict[str, pd.DataFrame], law: Law) -> pd.DataFrame:
    """The table of a sweep that a law reads: its runs, or its curves with their counts of N and C.

    Raises:
        RequestError: nothing has a loss yet.
    """
    runs = frames["runs"]
    if "loss_nats" not in runs.columns:
        raise RequestError("No run of this sweep has a loss yet; launch it first.")
    if law.table == "runs":
        return runs
    counts = [f"n_{name}" for name in PARAMETER_COUNTS]
    per_token = {f"flops_{name}": runs[f"flops_{name}"] / runs["tokens"] for name in FLOP_COUNTS}
    known = runs[["trunk", "job", *counts]].assign(**per_token)
    both = pd.concat(
        [known.drop(columns="trunk"), known.drop(columns="job").rename(columns={"trunk": "job"})]
    )
    curves = frames["curves"]
    curves = with_paths(curves, runs) if "lr" in law.partial else curves.dropna(subset=["loss_nats"])
    curves = curves.merge(both.drop_duplicates("job"), on="job")
    for name in per_token:
        curves[name] *= curves["tokens"]
    return curves


def with_paths(curves: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Curves whose branches name the trunk they were cut from (`parent`), have their schedule's learning
    rates, also where they have not been trained yet, and their final loss."""
    added = []
    for run in runs[runs["state"].isin(["done", "missing"])].to_dict("records"):
        cut, end, drops = int(run["cut_step"]), int(run["steps"]), _drops(run.get("drops"))
        curve = LearningRateCurve(0, cut, end, run["decay"], run["end_lr_share"], drops)
        knots = curve.knots(PATH_ROWS)  # of updates from 0; a row of step t is measured after update t - 1
        rates = [run["lr"] * curve.at(update) for update in knots]
        rows = pd.DataFrame({"step": [update + 1 for update in knots], "lr": rates})
        rows["tokens"] = rows["step"] * run["batch_tokens"]
        rows.loc[rows.index[-1], "loss_nats"] = run["loss_nats"]
        added.append(rows.assign(job=run["job"], kind="branch", rung=run["rung"]))
    parents = runs.dropna(subset=["trunk"]).set_index("job")["trunk"].to_dict()
    whole = pd.concat([curves, *added], ignore_index=True)
    return whole.assign(parent=whole["job"].map(parents))


def _drops(text: Any) -> tuple[Drop, ...]:
    """The drops of a run from its row: (step, multiplier)."""
    if not isinstance(text, str):
        return ()
    return tuple(tuple(map(float, drop.split(":"))) for drop in text.split())


def sweep_observations(plans: dict[str, Plan], frames: dict[str, pd.DataFrame], law: Law) -> Observations:
    """A sweep's runs under its study's accounting."""
    accounting = next(iter(plans.values())).accounting
    return observations(sweep_table(plans, frames, law), law, sweep_reading(accounting))


def _repeats(data: Observations) -> bool:
    if not {"n", "d"} <= set(data.columns):
        return False
    groups = data.labels.get("group", ("",) * len(data))
    return len(set(zip(data.n, data.d, groups, strict=True))) < len(data)


def save(sweep: Sweep, made: Fit) -> Path:
    """Keep a fit beside the sweep's tables."""
    path = sweep.folder / "fits" / f"{made.law}.json"
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, finite(dataclasses.asdict(made)))
    return path


def finite(value: Any) -> Any:
    """The same with None for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def kept(sweep: Sweep) -> dict[str, Fit]:
    """The fits that were made of a sweep, by law."""
    return {name: load(sweep, name) for name in LAWS if (sweep.folder / "fits" / f"{name}.json").exists()}


def load(sweep: Sweep, name: str) -> Fit:
    """A fit that was kept.

    Raises:
        RequestError: there is none yet.
    """
    path = sweep.folder / "fits" / f"{name}.json"
    try:
        raw = read_json(path)
        raw["intervals"] = {key: tuple(map(_number, value)) for key, value in raw["intervals"].items()}
        for part in ("params", "derived"):
            raw[part] = {key: _number(value) for key, value in raw[part].items()}
        return Fit(**raw)
    except FileNotFoundError:
        raise RequestError(
            f"There is no {name} fit of {sweep.name}; run `sweepctl fit {sweep.name}`."
        ) from None
    except (KeyError, TypeError, DamagedFile) as error:
        raise DamagedFile(f"{path} is not a fit ({error}); run `sweepctl fit {sweep.name}` again.") from None
