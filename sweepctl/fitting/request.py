"""One request of `sweepctl fit`: from a source to fits with what was asked of them."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sweepctl.collect.tables import collect
from sweepctl.errors import InvalidValue, RequestError
from sweepctl.fitting.columns import select
from sweepctl.fitting.fit import OF_LOSS, computing, fit_and_test, fit_law, law_of, predict_at
from sweepctl.fitting.observations import TableReading, observations, read_table
from sweepctl.fitting.sweeps import CONVENTIONS, sweep_reading, sweep_table
from sweepctl.laws.fit import Fit, Target, UnderAccounting
from sweepctl.laws.holdout import HoldOut, hold_out
from sweepctl.laws.law import Law, Resampling
from sweepctl.laws.observations import CannotFit, Observations
from sweepctl.plan.plan import Plan
from sweepctl.spec.accounting import Accounting
from sweepctl.spec.build import build
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.store.workspace import Sweep, Workspace


@dataclass(frozen=True)
class FitRequest:
    """What to fit and what to say about it."""

    source: str
    """A sweep, or the path of a table."""
    law: str = "all"
    """A law's name, or all: those that OF_LOSS names, as far as the data carry them."""
    options: tuple[str, ...] = ()
    """key=value of the law's options."""
    reading: TableReading = TableReading()
    """How the table is read."""
    out: Path | None = None
    """Where the tables and fits of a sweep go; None: beside its plans."""
    where: str | None = None
    """A condition on columns that rows must meet."""
    targets: tuple[str, ...] = ()
    """Where to predict: role=number, several with commas."""
    hold_out: HoldOut | None = None
    """What is left out of a second fit, and predicted by it."""
    accounting: Accounting | None = None
    """How N and C are counted; none: as the study says, or as the columns do."""
    every_accounting: bool = False
    """Whether the law is also fitted under every accounting that the table has the columns of."""


@dataclass(frozen=True)
class FitAnswer:
    """What came of a request."""

    fits: dict[str, Fit]
    """By law."""
    refused: dict[str, str]
    """Law to why it could not be fitted."""
    sweep: Sweep | None
    """The sweep, where the source is one."""


class FitSource:
    """A sweep or a table, and how to see it as a law does."""

    def __init__(self, request: FitRequest) -> None:
        self.request = request
        self.sweep: Sweep | None = None
        self._plans: dict[str, Plan] = {}
        if "." in request.source or "/" in request.source:
            if request.out is not None:
                raise RequestError(
                    "--out is for a sweep; of a table, --json FILE and --png FILE are written."
                )
            self._frames = {"runs": read_table(Path(request.source))}
        else:
            self.sweep = Workspace.default().read_sweep(request.source, request.out)
            self._plans = self.sweep.plans()
            self._frames = collect(SweepJobs(self.sweep, self._plans))

    def observations(self, law: Law, accounting: Accounting | None = None) -> Observations:
        """The rows that the law is meant for, under an accounting or, without one, the study's own."""
        reading, frame = self.request.reading, self._frames["runs"]
        if accounting is not None:  # it says what N and C are
            others = {role: c for role, c in reading.columns.items() if role not in ("n", "flops")}
            reading = dataclasses.replace(reading, columns=others)
        if self.sweep is not None:
            accounting = accounting or next(iter(self._plans.values())).accounting
            frame = sweep_table(self._frames, law)
        if accounting is not None:
            reading = self._counted_by(accounting, reading, frame)
        return observations(select(frame, self.request.where), law, reading)

    def _counted_by(self, accounting: Accounting, reading: TableReading, frame: pd.DataFrame) -> TableReading:
        """The reading under an accounting, of the columns that the table has."""
        named = sweep_reading(accounting, reading)
        for role in ("n", "flops"):
            if named.columns[role] not in frame.columns:
                raise RequestError(
                    f"--accounting {_title(accounting)} needs the column {named.columns[role]}."
                )
        there = {r: c for r, c in named.columns.items() if c in frame.columns or r in reading.columns}
        row = named.row if named.row in frame.columns else reading.row
        return dataclasses.replace(named, columns=there, row=row)

    def accountings(self) -> list[Accounting]:
        """The accountings that the table holds the columns of."""
        columns = self._frames["runs"].columns
        return [Accounting(n, c) for n, c in CONVENTIONS if f"n_{n}" in columns and f"flops_{c}" in columns]


def answer(request: FitRequest) -> FitAnswer:
    """Fit what was asked for.

    Raises:
        RequestError: no law could be fitted, or the request is not valid.
    """
    names = OF_LOSS if request.law == "all" else (request.law,)
    laws = [law_of(name) for name in names]
    source = FitSource(request)
    fits: dict[str, Fit] = {}
    refused: dict[str, str] = {}
    for law in laws:
        try:
            fits[law.name] = _fit(source, law)
        except RequestError as error:
            if request.law != "all":
                raise
            refused[law.name] = str(error)
    if not fits:
        raise RequestError(" ".join(dict.fromkeys(refused.values())))
    return FitAnswer(fits, refused, source.sweep)


def read_options(law: Law, texts: tuple[str, ...]) -> Resampling:
    """The options of a law from key=value texts, values as JSON where they are, else as text.

    Raises:
        RequestError: a text has no key, or the law no such option or value.
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RequestError(f"--option {text!r} is not key=value.")
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    try:
        return build(law.options, values, "option")
    except CannotFit as error:
        raise RequestError(str(error)) from None


def read_targets(law: Law, texts: tuple[str, ...]) -> list[Target]:
    """ "flops=1e21" and "n=7e9,d=2e12" to targets of a law.

    Raises:
        RequestError: a text is not one, or the law has no prediction for it.
    """
    targets = []
    choices = " or ".join(",".join(f"{role}=..." for role in roles) for roles in law.targets)
    for text in texts:
        values: dict[str, float] = {}
        for part in text.split(","):
            role, _, value = part.partition("=")
            try:
                values[role.strip()] = float(value)
            except ValueError:
                raise RequestError(f"--at {text!r} is not role=number; {law.name} takes {choices}.") from None
            if not 0 < values[role.strip()] < math.inf:
                raise InvalidValue("--at", text, "finite numbers above 0")
        if not any(set(roles) == set(values) for roles in law.targets):
            raise RequestError(f"{law.name} predicts at {choices or 'nothing'}, not at {text!r}.")
        targets.append(Target(values))
    return targets


def read_hold_out(text: str, rolling: bool) -> HoldOut:
    """ "flops=2" to what is held out.

    Raises:
        RequestError: it is something else.
    """
    role, _, count = text.partition("=")
    if role not in ("flops", "n", "d") or not count.isdigit() or int(count) < 1:
        raise RequestError(f"--hold-out {text!r} is not flops=K, n=K or d=K with K at least 1.")
    return HoldOut(role, int(count), rolling)


def read_accounting(text: str) -> Accounting:
    """PARAMETERS/FLOPS, or PARAMETERS alone with 6 N, to an accounting.

    Raises:
        RequestError: there is no such accounting.
    """
    parameters, _, flops = text.partition("/")
    return build(Accounting, {"parameters": parameters, "flops": flops or "six_n"}, "accounting")


def _fit(source: FitSource, law: Law) -> Fit:
    request = source.request
    targets = read_targets(law, request.targets)
    data = source.observations(law, request.accounting)
    options = read_options(law, request.options)
    fit = fit_and_test(law, data, options)
    fit.protocol["where"] = request.where
    predict_at(law, fit, targets)
    if request.hold_out is not None:
        _hold_out(fit, law, data, options, request.hold_out)
    if request.every_accounting:
        fit.other_accountings = _under_others(source, law, options, targets)
    return fit


def _hold_out(fit: Fit, law: Law, data: Observations, options: Resampling, what: HoldOut) -> None:
    if "loss" not in law.needs or law.held_out == "none":
        raise RequestError(f"{law.name} predicts no loss that could be held out.")
    try:
        with computing(law):
            fit.held_out = hold_out(law, data, dataclasses.replace(options, replicates=0), what)
    except CannotFit as error:
        raise RequestError(f"--hold-out {what.role}={what.count}: {error}") from None
    errors = np.array([row.error for row in fit.held_out])
    fit.derived["held_out_rms"] = float(np.sqrt(np.mean(errors**2)))
    fit.derived["held_out_max"] = float(np.abs(errors).max())
    inside = [row.inside for row in fit.held_out if row.inside is not None]
    if inside:
        fit.derived["held_out_inside"] = float(np.mean(inside))


def _under_others(
    source: FitSource, law: Law, options: Resampling, targets: list[Target]
) -> dict[str, UnderAccounting]:
    """The law under every accounting: parameters, what follows from them, predictions."""
    accountings = source.accountings()
    if not accountings:
        raise RequestError(
            "--accounting all needs a table with columns n_total, n_non_embedding, ... and flops_six_n, ..., "
            "such as runs.parquet of a sweep."
        )
    under: dict[str, UnderAccounting] = {}
    for accounting in accountings:
        try:
            fit = fit_law(law, source.observations(law, accounting), options)
        except RequestError as error:
            under[_title(accounting)] = UnderAccounting(refused=str(error))
            continue
        predict_at(law, fit, targets)
        under[_title(accounting)] = UnderAccounting(fit.params, fit.intervals, fit.derived, fit.predictions)
    return under


def _title(accounting: Accounting) -> str:
    return f"{accounting.parameters}/{accounting.flops}"
