"""Expressions of a table's columns: numbers of every row, or whether it counts."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from sweepctl.errors import RequestError
from sweepctl.fitting.cells import numbers, truths, words
from sweepctl.spec.expression import Evaluator, cause, decimals, known_name, parsed

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": np.sqrt,
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "exp": np.exp,
    "abs": np.abs,
    "min": lambda *values: functools.reduce(np.minimum, values),
    "max": lambda *values: functools.reduce(np.maximum, values),
    "round": lambda x, digits=0: np.round(x, decimals(digits)),
    "pow2": lambda x: 2.0 ** np.round(np.log2(x)),
}


def select(frame: pd.DataFrame, where: str | None) -> pd.DataFrame:
    """The rows that meet a condition, such as `n > 1e6 and schedule == 'wsd'`.

    Raises:
        RequestError: it is no condition of this table's rows.
    """
    if where is None:
        return frame
    try:
        value = _evaluated(frame, where)
        if isinstance(value, pd.Series) and not _of_numbers(value):
            return frame[truths(value)]
    except RequestError as error:
        raise RequestError(f"--where {where!r} does not work on this table: {error}") from None
    raise RequestError(f"--where {where!r} does not say of each row whether it counts.")


def column(frame: pd.DataFrame, text: str) -> pd.Series:
    """A column, or the value of an expression of columns.

    Raises:
        RequestError: it is neither.
    """
    by_name = _by_name(frame)
    if text in by_name or text.isidentifier():
        return by_name[known_name(text, by_name, "column")]
    try:
        value = _evaluated(frame, text)
    except RequestError as error:
        raise RequestError(f"{text!r} is neither a column nor an expression of columns: {error}") from None
    return value if isinstance(value, pd.Series) else pd.Series(value, frame.index)


def _evaluated(frame: pd.DataFrame, text: str) -> Any:
    node, quoted = parsed(text)
    try:
        with np.errstate(all="ignore"):
            return _Columns(quoted, _by_name(frame)).value(node)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise RequestError(f"{cause(error)}.") from None
    except RecursionError:
        raise RequestError("it is too deep to be computed.") from None


def _by_name(frame: pd.DataFrame) -> dict[str, pd.Series]:
    return {str(name): values for name, values in frame.items()}


class _Columns(Evaluator):
    """Of whole columns: one value a row."""

    functions = _FUNCTIONS
    texts = True

    def __init__(self, quoted: Mapping[str, str], by_name: Mapping[str, pd.Series]) -> None:
        super().__init__(quoted)
        self._by_name = by_name

    def named(self, name: str) -> pd.Series:
        return self._by_name[known_name(name, self._by_name, "column")]

    def number(self, value: Any) -> Any:
        return numbers(value) if isinstance(value, pd.Series) else float(value)

    def truth(self, value: Any) -> Any:
        if isinstance(value, pd.Series):
            return truths(value)
        if isinstance(value, bool):
            return value
        raise TypeError("a number is no condition")

    def compared(self, compare: Callable[..., Any], left: Any, right: Any) -> Any:
        if isinstance(left, str) or isinstance(right, str):
            return _compared_texts(compare, left, right)
        if isinstance(left, bool) or isinstance(right, bool):
            return compare(self.truth(left), self.truth(right))
        try:
            return compare(self.number(left), self.number(right))
        except RequestError:
            if isinstance(left, pd.Series) and isinstance(right, pd.Series):
                return _compared_texts(compare, left, right)
            raise

    def choice(self, test: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        if isinstance(test, bool):
            return yes() if test else no()
        return pd.Series(np.where(test, self.number(yes()), self.number(no())), test.index)

    def both(self, left: Any, right: Callable[[], Any]) -> Any:
        return left & right()

    def opposite(self, condition: Any) -> Any:
        return not condition if isinstance(condition, bool) else ~condition


def _compared_texts(compare: Callable[..., Any], left: Any, right: Any) -> Any:
    """An empty cell equals nothing, and neither comes before a text nor after it."""
    for side, other in ((left, right), (right, left)):
        if isinstance(other, str) and isinstance(side, (int, float)):
            raise TypeError(f"{other!r} is a text, {side:g} a number")
        if isinstance(other, str) and _of_numbers(side):
            raise TypeError(f"{side.name} holds numbers: write {other} without quotes")
    texts = [words(side) if isinstance(side, pd.Series) else side for side in (left, right)]
    result = compare(*texts)
    for text in texts:
        if isinstance(text, pd.Series):
            result = result.where(text != "", compare is operator.ne)
    return result


def _of_numbers(side: Any) -> bool:
    return (
        isinstance(side, pd.Series)
        and is_numeric_dtype(side.dtype)
        and not is_bool_dtype(side.dtype)
        and bool(side.notna().any())
    )
