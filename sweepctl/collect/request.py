"""One request of `sweepctl fit`: from a source to fits with what was asked of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sweepctl.collect import fits
from sweepctl.collect.observations import Reading, observations, read_table, select
from sweepctl.collect.tables import collect
from sweepctl.errors import RequestError
from sweepctl.laws.holdout import hold_out
from sweepctl.laws.law import CannotFit, Fit, Law, Observations
from sweepctl.plan.plan import Plan
from sweepctl.spec.accounting import Accounting
from sweepctl.spec.build import build
from sweepctl.store.board import Board
from sweepctl.store.workspace import Sweep, Workspace


@dataclass(frozen=True)
class Request:
    """What to fit and what to say about it. `hold_out` is such as "flops=2"; `accounting` one of
    PARAMETERS/FLOPS, or all."""

    source: str
    options: dict[str, Any] = field(default_factory=dict)
    reading: Reading = Reading()
    where: str | None = None
    targets: tuple[str, ...] = ()
    hold_out: str | None = None
    rolling: bool = False
    accounting: str | None = None


class Source:
    """A sweep or a table, and how to see it as a law does."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.sweep: Sweep | None = None
        self._plans: dict[str, Plan] = {}
        if "." in request.source or "/" in request.source:
            self._frames = {"runs": read_table(Path(request.source))}
        else:
            self.sweep = Workspace.default().known_sweep(request.source)
            self._plans = self.sweep.plans()
            self._frames = collect(Board(self.sweep, self._plans))

    def observations(self, law: Law, accounting: Accounting | None = None) -> Observations:
        """The rows that the law is meant for, under an accounting or, without one, the study's own."""
        reading, frame = self.request.reading, self._frames["runs"]
        if accounting is not None:  # it says what N and C are
            others = {role: c for role, c in reading.columns.items() if role not in ("n", "flops")}
            reading = dataclasses.replace(reading, columns=others)
        if self.sweep is not None:
            accounting = accounting or next(iter(self._plans.values())).accounting
            frame = fits.sweep_table(self._plans, self._frames, law)
        if accounting is not None:
            reading = self._counted_by(accounting, reading, frame)
        return observations(select(frame, self.request.where), law, reading)

    def _counted_by(self, accounting: Accounting, reading: Reading, frame: pd.DataFrame) -> Reading:
        """The reading under an accounting, of the columns that the table has."""
        named = fits.sweep_reading(accounting, reading)
        for role in ("n", "flops"):
            if named.columns[role] not in frame.columns:
                counted = f"{accounting.parameters}/{accounting.flops}"
                raise RequestError(f"--accounting {counted} needs the column {named.columns[role]}.")
        there = {r: c for r, c in named.columns.items() if c in frame.columns or r in reading.columns}
        row = named.row if named.row in frame.columns else reading.row
        return dataclasses.replace(named, columns=there, row=row)

    def counted(self) -> list[Accounting]:
        """The accountings that the table holds the columns of."""
        columns = self._frames["runs"].columns
        return [
            Accounting(n, c) for n, c in fits.CONVENTIONS if f"n_{n}" in columns and f"flops_{c}" in columns
        ]


def answer(request: Request, name: str) -> tuple[dict[str, Fit], dict[str, str], Sweep | None]:
    """The fits of a law (or of `all`), what was refused and why, and the sweep where the source is one.

    Raises:
        RequestError: no law could be fitted, or the request is not valid.
    """
    laws = [fits.law(name)] if name != "all" else [fits.law(one) for one in fits.ALL]
    source = Source(request)
    made, refused = {}, {}
    for law in laws:
        try:
            made[law.name] = _one(source, law)
        except RequestError as error:
            if name != "all":
                raise
            refused[law.name] = str(error)
    if not made:
        raise RequestError(" ".join(dict.fromkeys(refused.values())))
    return made, refused, source.sweep


def _one(source: Source, law: Law) -> Fit:
    request = source.request
    targets = fits.read_targets(list(request.targets), law)
    chosen = None if request.accounting in (None, "all") else _accounting(str(request.accounting))
    data = source.observations(law, chosen)
    made = fits.fit(law, data, request.options)
    made.protocol["where"] = request.where
    fits.predict(law, made, targets)
    if request.hold_out:
        _hold_out(made, law, data, request)
    if request.accounting == "all":
        made.other_accountings = _others(source, law, targets)
    return made


def _hold_out(made: Fit, law: Law, data: Observations, request: Request) -> None:
    role, _, count = str(request.hold_out).partition("=")
    if role not in ("flops", "n", "d") or not count.isdigit() or int(count) < 1:
        raise RequestError(f"--hold-out {request.hold_out!r} is not flops=K, n=K or d=K with K at least 1.")
    if "loss" not in law.needs or law.held_out == "none":
        raise RequestError(f"{law.name} predicts no loss that could be held out.")
    options: Any = build(law.options, {**request.options, "replicates": 0}, "option")
    try:
        with fits.computing(law):
            made.held_out = hold_out(law, data, options, role, int(count), request.rolling)
    except CannotFit as error:
        raise RequestError(f"--hold-out {request.hold_out}: {error}") from None
    errors = np.array([row["error"] for row in made.held_out])
    made.derived["held_out_rms"] = float(np.sqrt(np.mean(errors**2)))
    made.derived["held_out_max"] = float(np.abs(errors).max())


def _others(source: Source, law: Law, targets: list[dict[str, float]]) -> dict[str, Any]:
    """The law under every accounting: parameters, what follows from them, predictions."""
    accountings = source.counted()
    if not accountings:
        raise RequestError(
            "--accounting all needs a table with columns n_total, n_non_embedding, ... and flops_six_n, ..., "
            "such as runs.parquet of a sweep."
        )
    found: dict[str, Any] = {}
    for accounting in accountings:
        told = f"{accounting.parameters}/{accounting.flops}"
        try:
            made = fits.fit(law, source.observations(law, accounting), source.request.options)
        except RequestError as error:
            found[told] = {"refused": str(error)}
            continue
        fits.predict(law, made, targets)
        found[told] = {
            "params": made.params, "intervals": made.intervals, "derived": made.derived,
            "predictions": made.predictions,
        }  # fmt: skip
    return found


def _accounting(text: str) -> Accounting:
    parameters, _, flops = text.partition("/")
    return build(Accounting, {"parameters": parameters, "flops": flops or "six_n"}, "accounting")
