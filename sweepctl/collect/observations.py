"""A table of runs to the observations that laws are fitted to, saying what was left out and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sweepctl.errors import RequestError, unknown_name
from sweepctl.laws.law import CannotFit, Observations

SEEDS = ("seed_init", "seed_data", "setting_seed.init", "setting_seed.data")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column means what. `flops` None is 6 N D."""

    n: str
    d: str
    flops: str | None
    loss: str
    row: str | None = None


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


def select(frame: pd.DataFrame, where: str | None) -> pd.DataFrame:
    """The rows of a pandas query expression.

    Raises:
        RequestError: the expression is not one.
    """
    if where is None:
        return frame
    try:
        return frame.query(where)
    except Exception as error:
        why = str(error).splitlines()[0][:200]
        raise RequestError(f"--where {where!r} does not work on this table: {why}.") from None


def observations(frame: pd.DataFrame, columns: Columns, accounting: dict[str, str]) -> Observations:
    """The annealed losses of a table.

    Left out, with the reason: runs that diverged or are missing, of a stage that is not meant for laws, and
    runs that a lower loss at the same N and D dominates. Runs that differ only in their seeds are averaged.

    Raises:
        RequestError: a column is missing or not numbers.
    """
    for name in (columns.n, columns.d, columns.loss, columns.flops, columns.row):
        if name is not None and name not in frame.columns:
            raise unknown_name("column", name, map(str, frame.columns))
    names = frame[columns.row].astype(str) if columns.row else pd.Series(frame.index.astype(str), frame.index)
    reasons = pd.Series("", index=frame.index)
    if "for_fit" in frame.columns:
        reasons[~frame["for_fit"].astype(bool)] = "its stage is not meant for laws"
    if "state" in frame.columns:
        absent = frame["state"] != "done"
        reasons[absent] = frame.loc[absent, "state"].astype(str)
    numbers = _numbers(frame, columns)
    reasons[(reasons == "") & numbers.isna().any(axis=1)] = "no loss"
    used = numbers[reasons == ""].assign(row=names)
    used, dominated = _reduce(frame, used)
    excluded = [(names[i], reasons[i]) for i in frame.index if reasons[i]] + dominated
    try:
        return Observations(
            n=np.asarray(used["n"], dtype=np.float64),
            d=np.asarray(used["d"], dtype=np.float64),
            flops=np.asarray(used["flops"], dtype=np.float64),
            loss=np.asarray(used["loss"], dtype=np.float64),
            rows=tuple(used["row"]),
            excluded=tuple(excluded),
            accounting=accounting,
        )
    except CannotFit as error:
        raise RequestError(str(error)) from None


def _numbers(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    found = pd.DataFrame(index=frame.index)
    for name, column in (("n", columns.n), ("d", columns.d), ("loss", columns.loss)):
        found[name] = pd.to_numeric(frame[column], errors="coerce").astype("float64")
    if columns.flops is None:
        found["flops"] = 6.0 * found["n"] * found["d"]
    else:
        found["flops"] = pd.to_numeric(frame[columns.flops], errors="coerce").astype("float64")
    return found


def _reduce(frame: pd.DataFrame, used: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Mean over seeds, then the best setting at each (N, D). Only for tables that say their settings."""
    settings = [c for c in frame.columns if str(c).startswith("setting_") and c not in SEEDS]
    settings += [c for c in ("lr", "batch_tokens", "parametrization") if c in frame.columns]
    if not settings or used.empty:
        return used, []
    keys = [frame.loc[used.index, c].astype(str) for c in settings]
    grouped = used.groupby([used["n"], used["d"], *keys], sort=False, dropna=False)
    merged = grouped.agg({"n": "first", "d": "first", "flops": "first", "loss": "mean", "row": " ".join})
    merged = merged.reset_index(drop=True)
    best = merged.loc[merged.groupby(["n", "d"], sort=False)["loss"].idxmin()]
    lost = merged.drop(best.index)
    return best, [(row, "a lower loss at the same N and D dominates it") for row in lost["row"]]
