"""Fits of a sweep: made from its runs, kept as JSON beside them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from sweepctl.collect.observations import Columns, observations
from sweepctl.errors import DamagedFile, RequestError, unknown_name
from sweepctl.laws import isoflop, parametric
from sweepctl.laws.law import CannotFit, Fit, Observations
from sweepctl.plan.plan import Plan
from sweepctl.spec.build import build
from sweepctl.store.files import read_json, storage, write_json
from sweepctl.store.workspace import Sweep

LAWS: dict[str, ModuleType] = {parametric.NAME: parametric, isoflop.NAME: isoflop}
"""Every law by its name: a module with `Options` and `fit(observations, options)`."""


def law(name: str) -> ModuleType:
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


def fit(name: str, data: Observations, options: dict[str, Any]) -> Fit:
    """Fit a law.

    Raises:
        RequestError: an option is not valid, or the data do not carry the law.
    """
    module = law(name)
    try:
        made: Fit = module.fit(data, build(module.Options, options, "option"))
    except CannotFit as error:
        reasons = Counter(reason for _, reason in data.excluded)
        left_out = "; ".join(f"{number} left out: {reason}" for reason, number in reasons.items())
        raise RequestError(f"{error}{f' ({left_out})' if left_out else ''}") from None
    return made


def fit_all(data: Observations, options: dict[str, Any]) -> tuple[dict[str, Fit], dict[str, str]]:
    """Every law that the data carry, and why the others were refused."""
    made, refused = {}, {}
    for name in LAWS:
        try:
            made[name] = fit(name, data, options)
        except RequestError as error:
            refused[name] = str(error)
    return made, refused


def sweep_observations(plans: dict[str, Plan], runs: pd.DataFrame) -> Observations:
    """A sweep's runs under its study's accounting."""
    accounting = next(iter(plans.values())).accounting
    columns = Columns(
        n=f"n_{accounting.parameters}",
        d="tokens",
        flops=f"flops_{accounting.flops}",
        loss="loss_nats",
        row="job",
    )
    if "loss_nats" not in runs.columns:
        raise RequestError("No run of this sweep has a loss yet; launch it first.")
    return observations(
        runs,
        columns,
        {"parameters": accounting.parameters, "flops": accounting.flops, "loss": "nats a token"},
    )


def save(sweep: Sweep, made: Fit) -> Path:
    """Keep a fit beside the sweep's tables."""
    path = sweep.folder / "fits" / f"{made.law}.json"
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dataclasses.asdict(made))
    return path


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
        raw["intervals"] = {key: tuple(value) for key, value in raw["intervals"].items()}
        return Fit(**raw)
    except FileNotFoundError:
        raise RequestError(
            f"There is no {name} fit of {sweep.name}; run `sweepctl fit {sweep.name}`."
        ) from None
    except (KeyError, TypeError, DamagedFile) as error:
        raise DamagedFile(f"{path} is not a fit ({error}); run `sweepctl fit {sweep.name}` again.") from None
