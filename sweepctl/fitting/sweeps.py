"""The tables of a sweep as laws read them: which of them, and which of their columns under an accounting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from sweepctl.errors import RequestError
from sweepctl.fitting.observations import TableReading, observations
from sweepctl.laws.law import Law
from sweepctl.laws.observations import Observations
from sweepctl.plan.plan import Plan
from sweepctl.spec.accounting import FLOP_COUNTS, PARAMETER_COUNTS, Accounting
from sweepctl.spec.learning_rate import Drop, LearningRateCurve

PATH_ROWS = 64
"""Parts of a branch's decay between which its learning rate is taken as linear."""

CONVENTIONS = [(n, c) for n in PARAMETER_COUNTS for c in FLOP_COUNTS]


def sweep_reading(accounting: Accounting, reading: TableReading = TableReading()) -> TableReading:  # noqa: B008
    """How a sweep's tables are read under an accounting."""
    columns = {
        "n": f"n_{accounting.parameters}",
        "d": "tokens",
        "flops": f"flops_{accounting.flops}",
        "loss": "loss_nats",
        "batch": "batch_tokens",
        "run": "job",
        "trunk": "trunk",
    }
    counted = {"parameters": accounting.parameters, "flops": accounting.flops, "loss": "nats a token"}
    return replace(reading, columns={**columns, **reading.columns}, row="job", accounting=counted)


def sweep_table(frames: dict[str, pd.DataFrame], law: Law) -> pd.DataFrame:
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
    counted = runs[["trunk", "job", *counts]].assign(**per_token)
    both = pd.concat(
        [counted.drop(columns="trunk"), counted.drop(columns="job").rename(columns={"trunk": "job"})]
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
    return observations(sweep_table(frames, law), law, sweep_reading(accounting))
