"""A table of runs to the observations that a law is fitted to, saying what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from sweepctl.errors import RequestError, unknown_name
from sweepctl.fitting.cells import numbers, one_of, shares, truths, words
from sweepctl.fitting.columns import column
from sweepctl.laws.law import Law
from sweepctl.laws.observations import LABELS, NUMBERS, CannotFit, Excluded, Observations
from sweepctl.spec.schedules.schedule import Schedule

SEEDS = ("seed", "seed_init", "seed_data", "setting_seed.init", "setting_seed.data")
SETTINGS = ("lr", "batch", "batch_tokens", "parametrization", "optimizer")
DONE = ("done", "finished", "complete", "completed", "success", "succeeded")
NOT_DONE = (
    *("diverged", "missing", "running", "queued", "ready", "interrupted", "waiting", "cancelled", "failed"),
    *("crashed", "killed", "error", "stopped", "aborted", "canceled", "pending", "scheduled", "submitted"),
    *("preempted", "preempting", "timeout", "node_fail", "out_of_memory", "suspended", "completing"),
    *("boot_fail", "deadline", "requeued", "revoked", "cancelled+", "out_of_me+"),
)
"""States of runs as trackers and schedulers say them."""
KINDS = ("trunk", "branch", "run")
OTHER_LAWS = {kind: cls.another_law for kind, cls in Schedule.kinds().items() if cls.another_law}
"""Schedules whose runs are never fitted with those of others -> why."""
Reduction = Literal["best", "mean", "none"]


@dataclass(frozen=True, slots=True)
class TableReading:
    """How a table is read."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Role -> column, or an expression of columns such as "batch_seqs * 2048"; a role that is not named is
    the column of its own name."""
    row: str | None = None
    """The column that names the rows; none: they are numbered."""
    reduce: Reduction = "best"
    """What becomes of runs that differ only in learning rate, batch or other settings."""
    undecayed: bool = False
    """Whether losses count that were not annealed."""
    accounting: Mapping[str, str] = field(default_factory=dict)
    """How N, C and the loss are counted, where it is known."""


def read_table(path: Path) -> pd.DataFrame:
    """A CSV or Parquet table.

    Raises:
        RequestError: there is no such file, or it is not a table.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise RequestError(f"{path} is neither a sweep nor a table: a table ends in .csv or .parquet.")
    if not path.is_file():
        raise RequestError(f"There is no table {path}.")
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except Exception as error:
        raise RequestError(f"{path} is not a table: {str(error).splitlines()[0]}") from None


def observations(frame: pd.DataFrame, law: Law, reading: TableReading) -> Observations:
    """The rows of a table that a law is meant for.

    Left out, with the reason: runs that diverged or are missing, that belong to a stage not meant for laws,
    whose learning rate was not decayed (where the table says so), rows without a number the law needs, rows
    that repeat another in everything, and runs that a lower loss at the same N and D dominates. Runs that
    differ only in their seeds are averaged.

    Raises:
        RequestError: a column is missing, is not numbers, or mixes units; or rows mix schedules of two laws.
    """
    names = _names(frame, reading.row)
    reasons = _reasons(frame, law, reading)
    used, counted = roles(frame[reasons == ""], law, reading)  # of others it does not matter what cells say
    measured = [role for role in used if role in NUMBERS]
    needed = [r for r in measured if r not in law.partial and (r not in law.takes or r in reading.columns)]
    for role in (*needed, *(role for role in law.needs if role in LABELS)):
        what = NUMBERS.get(role, role).partition(",")[0]
        reasons[used.index[used[role].isna()].intersection(reasons.index[reasons == ""])] = f"no {what}"
    reasons[(reasons == "") & frame.astype(str).duplicated()] = "it repeats another row"
    kept = used[reasons[used.index] == ""].assign(row=names[reasons == ""])
    if law.annealed and "schedule" in frame.columns:
        schedules = frame["schedule"].loc[kept.index].astype(str)
        _refuse_mixed_schedules(schedules, kept.get("group"))
        if len(kinds := set(schedules)) == 1 and kinds <= OTHER_LAWS.keys():
            counted["schedule"] = kinds.pop()
    reduced, dominated, how = _reduce(frame, kept, law, reading)
    whole = [r for r in measured if r in reduced and (r in law.partial or reduced[r].notna().all())]
    _refuse_mixed_units(reduced.drop(columns=[role for role in law.partial if role in reduced]))
    try:
        return Observations(
            columns={role: reduced[role].to_numpy(dtype=np.float64) for role in whole},
            labels={role: tuple(map(str, reduced[role])) for role in LABELS if role in reduced},
            rows=tuple(reduced["row"]),
            excluded=tuple(Excluded(names[i], reasons[i]) for i in frame.index if reasons[i])
            + tuple(dominated),
            accounting={**counted, **reading.accounting, "reduction": how},
            partial=law.partial,
        )
    except CannotFit as error:
        raise RequestError(str(error)) from None


def roles(frame: pd.DataFrame, law: Law, reading: TableReading) -> tuple[pd.DataFrame, dict[str, str]]:
    """The columns that a law needs or takes, by role, and what each was read from. Of n, d and flops one that
    is absent is made from the others by C = 6 N D."""
    used, counted = pd.DataFrame(index=frame.index), {}
    for role in dict.fromkeys((*law.needs, *law.takes, "n", "d", "flops")):
        text = reading.columns.get(role)
        if text is None and role in frame.columns:
            text = role
        if text is not None:
            values = column(frame, text)
            used[role] = _to_names(values, role) if role in LABELS else numbers(values)
            counted[role] = text
    n, d, c = (used.get(role) for role in ("n", "d", "flops"))
    if c is None and n is not None and d is not None:
        used["flops"], counted["flops"] = 6.0 * n * d, "six_n"
    elif d is None and n is not None and c is not None:
        used["d"], counted["d"] = c / (6.0 * n), "flops / (6 n)"
    elif n is None and d is not None and c is not None:
        used["n"], counted["n"] = c / (6.0 * d), "flops / (6 d)"
    for role in law.needs:
        if role not in used:
            what = NUMBERS.get(role) or LABELS[role]
            names = ", ".join(map(str, frame.columns))
            flag = role.replace("_", "-")
            raise RequestError(f"{law.name} needs a column of {what}: --{flag} names it, one of {names}.")
    if "n" in counted:
        counted["parameters"] = counted["n"]
    wanted = (*law.needs, *law.takes)
    return used[[role for role in used if role in wanted]], counted


def _to_names(values: pd.Series, role: str) -> pd.Series:
    """A whole run has no trunk, and shares none."""
    if role == "trunk":
        values = values.where(values.notna(), [f"row {place}" for place in values.index])
    return values.astype(str)


def _names(frame: pd.DataFrame, row: str | None) -> pd.Series:
    if row is None:
        return pd.Series(frame.index.astype(str), frame.index)
    if row not in frame.columns:
        raise unknown_name("column", row, map(str, frame.columns))
    return frame[row].astype(str)


def _reasons(frame: pd.DataFrame, law: Law, reading: TableReading) -> pd.Series:
    """Why rows are left out before their numbers are looked at: '' where they are not."""
    reasons = pd.Series("", index=frame.index, dtype=object)
    of_settings = {"lr", "batch"} & {*law.needs, *law.takes}  # what stages that choose a setting are for
    if "for_fit" in frame.columns and not of_settings:
        reasons[~truths(frame["for_fit"])] = "its stage is not meant for laws"
    if "state" in frame.columns:
        states = one_of(words(frame["state"]).str.split().str[0], (*DONE, *NOT_DONE))  # CANCELLED by 1000
        absent = ~states.isin(DONE)
        reasons[absent] = states[absent].replace("", "its state is empty")
    if law.annealed and not reading.undecayed:
        reasons[_undecayed(frame[reasons == ""])] = "undecayed: it was not annealed"
    return reasons


def _undecayed(frame: pd.DataFrame) -> pd.Index:
    """The rows that say that they were not annealed."""
    undecayed = pd.Series(False, index=frame.index)
    if "kind" in frame.columns:
        undecayed |= one_of(frame["kind"], KINDS) == "trunk"
    if "decayed" in frame.columns:
        undecayed |= ~truths(frame["decayed"])
    if "end_lr_share" in frame.columns:
        undecayed |= shares(frame["end_lr_share"]) >= 1
    return undecayed.index[undecayed]


def _reduce(
    frame: pd.DataFrame, used: pd.DataFrame, law: Law, reading: TableReading
) -> tuple[pd.DataFrame, list[Excluded], str]:
    """Mean over seeds, then the best run at each (N, D), where the table says its settings; what was left
    out, and what was done."""
    settings = [str(c) for c in frame.columns if str(c).startswith("setting_") and c not in SEEDS]
    named = [reading.columns[role] for role in ("lr", "batch") if role in reading.columns]
    settings += [c for c in SETTINGS if c in frame.columns] + [c for c in named if c not in SETTINGS]
    seeds = [c for c in SEEDS if c in frame.columns]
    if not law.reduced or reading.reduce == "none" or not {"n", "d", "loss"} <= set(used.columns):
        return used, [], "none"
    if not settings and not seeds and reading.reduce == "best":
        return used, [], "none"
    place = ["n", "d", *(["group"] if "group" in used else [])]
    keys = [column(frame.loc[used.index], c).astype(str).rename(c) for c in settings]
    places = [used[p] for p in place]
    varied = [key for key in keys if key.groupby(places, dropna=False).nunique().gt(1).any()]
    over = ", ".join(dict.fromkeys(str(key.name) for key in varied))
    mean: dict[Any, Any] = dict.fromkeys(used, "first") | {"loss": "mean", "row": " ".join}
    if reading.reduce == "mean":
        means = used.groupby(places, sort=False, dropna=False).agg(mean).reset_index(drop=True)
        return means, [], f"mean over {', '.join([*seeds, over]) if over else 'equal runs'}"
    if seeds:  # runs that nothing else tells apart differ in more than a seed where no column names one
        used = used.groupby([*places, *keys], sort=False, dropna=False).agg(mean)
    used = used.reset_index(drop=True)
    best = used.loc[used.groupby(place, sort=False)["loss"].idxmin()]
    why = [
        Excluded(row, "a lower loss at the same N and D dominates it") for row in used.drop(best.index)["row"]
    ]
    how = [f"mean over {', '.join(seeds)}"] if seeds else []
    how += [f"least over {over or 'the rest'} at each N and D"] if over or why else []
    return best, why, ", then ".join(how) or "none"


def _refuse_mixed_schedules(schedule: pd.Series, group: pd.Series | None) -> None:
    """Raises RequestError where runs of two laws are fitted together; groups are fitted apart."""
    kinds = schedule.groupby(group if group is not None else [0] * len(schedule)).unique()
    for together in kinds:
        for kind, reason in OTHER_LAWS.items():
            if kind in together and len(together) > 1:
                raise RequestError(
                    f"These runs mix the schedules {', '.join(sorted(together))}: {kind} {reason}, which is "
                    f"another law; choose with --where \"schedule == '{kind}'\" or \"schedule != '{kind}'\"."
                )


def _refuse_mixed_units(used: pd.DataFrame) -> None:
    """Rows that count in other units than the rest lie far from what they should be."""
    counts = [role for role in ("n", "d", "flops", "batch", "lr") if role in used]
    positive = (used[counts] > 0) & (used[counts] < np.inf)
    used = used[counts][positive.all(axis=1)]
    if {"n", "d", "flops"} <= set(used.columns) and len(used) > 1:
        share = np.log10((used["flops"] / (used["n"] * used["d"])).to_numpy(dtype=np.float64))
        if np.ptp(share) > 2.5:
            raise RequestError(
                f"C / (N D) lies between {10 ** share.min():.3g} and {10 ** share.max():.3g} in these rows: "
                "they mix units of N, D or C."
            )
    for role in counts:
        values = np.sort(np.log10(used[role].to_numpy(dtype=np.float64)))
        if values.size > 1 and np.diff(values).max() > 5:
            gap = int(np.argmax(np.diff(values)))
            low, high = 10 ** values[gap], 10 ** values[gap + 1]
            raise RequestError(f"{role} jumps from {low:.3g} to {high:.3g}: the rows mix units.")
