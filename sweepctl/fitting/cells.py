"""The cells of a table that somebody else wrote: as numbers, or as true and false. What cannot be read is
named by its column and row; only what says that it is empty counts as absent."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from sweepctl.errors import RequestError

ABSENT = ("", "-", "--", "\N{EN DASH}", "\N{EM DASH}", "?", "n/a", "na", "nan", "<na>", "none", "null", "nil")
TRUE = ("true", "t", "yes", "y", "1", "1.0")
FALSE = ("false", "f", "no", "n", "0", "0.0")
_GROUPED = r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?"
_UNMISTAKABLE = r".*,\d{3}[,.].*"
"""Of a number with commas: one alone may as well be a decimal comma."""


def numbers(column: pd.Series) -> pd.Series:
    """A column as numbers, NaN where a cell is empty. Commas between thousands and a percent sign are read.

    Raises:
        RequestError: a cell is something else.
    """
    if is_numeric_dtype(column.dtype):
        return pd.to_numeric(column).astype("float64")
    texts = words(column)
    present = ~texts.str.lower().isin(ABSENT)
    grouped = present & texts.str.fullmatch(_GROUPED)
    if (grouped & texts.str.fullmatch(_UNMISTAKABLE)).any():
        texts = texts.where(~grouped, texts.str.replace(",", ""))
    percent = present & texts.str.endswith("%")
    values = pd.to_numeric(texts.str.removesuffix("%").where(present), errors="coerce").astype("float64")
    bad = present & values.isna()
    if bad.any():
        raise _unread(
            column, bad, "a number; write it out, as in 302000000, or leave its row out with --where"
        )
    return values.where(~percent, values / 100)


def truths(column: pd.Series) -> pd.Series:
    """A column as true and false; an empty cell is true, as nothing speaks against it.

    Raises:
        RequestError: a cell says neither.
    """
    if is_bool_dtype(column.dtype) and not column.hasnans:
        return column.astype(bool)
    texts = words(column).str.lower()
    false, absent = texts.isin(FALSE), texts.isin(ABSENT)
    bad = ~(texts.isin(TRUE) | false | absent)
    if bad.any():
        raise _unread(column, bad, "true or false; rename the column where it means something else")
    return ~false


def one_of(column: pd.Series, vocabulary: Sequence[str]) -> pd.Series:
    """A column of words in small letters, '' where a cell is empty.

    Raises:
        RequestError: a cell is none of the words.
    """
    texts = words(column).str.lower()
    texts = texts.where(~texts.isin(ABSENT), "")
    bad = ~texts.isin((*vocabulary, ""))
    if bad.any():
        what = f"{', '.join(vocabulary[:-1])} or {vocabulary[-1]}"
        raise _unread(column, bad, f"{what}; rename the column where it means something else")
    return texts


def shares(column: pd.Series) -> pd.Series:
    """A column of shares, NaN where a cell is empty.

    Raises:
        RequestError: a cell is not between 0 and 1.
    """
    values = numbers(column)
    bad = (values < 0) | (values > 1)
    if bad.any():
        raise _unread(column, bad, "a share between 0 and 1")
    return values


def words(column: pd.Series) -> pd.Series:
    """Cells as trimmed texts, '' where there is none."""
    return column.astype(object).where(column.notna(), "").map(str).str.strip()


def _unread(column: pd.Series, bad: pd.Series, what: str) -> RequestError:
    row = bad.index[bad.to_numpy()][0]
    cell, others = repr(str(column[row])), int(bad.sum()) - 1
    cell = cell if len(cell) <= 60 else f"{cell[:57]}..."
    also = f" (and {others} more)" if others else ""
    return RequestError(f"{column.name or 'the expression'}={cell} of row {row}{also} is not {what}.")
