"""Cells that somebody else wrote: read where they are unambiguous, else named by column and row."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from sweepctl.errors import RequestError
from sweepctl.fitting.cells import numbers, shares, truths
from sweepctl.fitting.observations import TableReading, observations
from sweepctl.laws.registry import LAWS


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1,234,567", "12,000", " 7 "], [1234567, 12000, 7]),
        (["1,234.5", "12,000", 3], [1234.5, 12000, 3]),
        (["99999999999999999999999", "1e400", "-2"], [1e23, np.inf, -2]),
        (["1e6", "-", "n/a", "NaN", None, ""], [1e6, *[np.nan] * 5]),
        ([Decimal("1.5"), 2, 3.0, "4"], [1.5, 2, 3, 4]),
        (["12%", "0.5"], [0.12, 0.5]),
        ([10**30, 5], [1e30, 5]),
    ],
)
def test_numbers_in_texts(cells: list[object], values: list[float]) -> None:
    read = numbers(pd.Series(cells, dtype=object, name="n"))
    assert read.dtype == np.float64
    np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(numbers(pd.Series(cells, dtype=object).astype("category")), values)


@pytest.mark.parametrize(
    "cell",
    ["302M", "1.1B", "5.78 ± 0.004", "6.01 x 10^15", "5,782", "0,123,456", "1.234.567", "1 000", "$5", "0x10",
     "1_000", "5.7*", "(5.7)", "12;13", "2024-01-01", "≈3", "1,23,456", "1e", "true", [1, 2], b"\xff"],
)  # fmt: skip
def test_a_cell_that_may_mean_something_else_is_named(cell: object) -> None:
    with pytest.raises(RequestError, match=r"loss=.* of row 1 is not a number"):
        numbers(pd.Series([1.0, cell, 2.0], dtype=object, name="loss"))


def test_dates_are_no_numbers() -> None:
    with pytest.raises(RequestError, match="loss="):
        numbers(pd.Series(pd.to_datetime(["2024-01-01"]), name="loss"))


def test_words_of_truth() -> None:
    cells = ["Yes", "n", "TRUE", "f", 1, 0, 1.0, True, False, None]
    assert truths(pd.Series(cells, dtype=object)).tolist() == [True, False] * 3 + [True, True, False, True]
    with pytest.raises(RequestError, match="decayed='linear' of row 0"):
        truths(pd.Series(["linear"], name="decayed"))
    with pytest.raises(RequestError, match=r"decayed='0\.5' of row 1"):
        truths(pd.Series([1.0, 0.5], name="decayed"))


def test_shares_are_between_0_and_1() -> None:
    assert shares(pd.Series(["10%", "1", "0.5"])).tolist() == [0.1, 1.0, 0.5]
    with pytest.raises(RequestError, match="end_lr_share"):
        shares(pd.Series([0.1, 10.0], name="end_lr_share"))


PARAMETRIC = LAWS["parametric"]


def runs(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"n": [1e6, 2e6, 3e6], "d": [1e8, 2e8, 3e8], "loss": [4.0, 3.0, 2.0]} | columns)


@pytest.mark.parametrize(
    ("table", "left_out"),
    [
        ({"state": ["Finished", "COMPLETED", "succeeded"]}, {}),
        ({"state": ["done", "OUT_OF_MEMORY", ""]}, {"1": "out_of_memory", "2": "its state is empty"}),
        ({"state": ["COMPLETED", "CANCELLED by 1000", "OUT_OF_ME+"]}, {"1": "cancelled", "2": "out_of_me+"}),
        ({"kind": ["Branch", " TRUNK", "run"]}, {"1": "undecayed: it was not annealed"}),
        ({"decayed": ["y", "no", ""]}, {"1": "undecayed: it was not annealed"}),
        ({"end_lr_share": ["10%", "100%", ""]}, {"1": "undecayed: it was not annealed"}),
        ({"for_fit": ["yes", "No", "1"]}, {"1": "its stage is not meant for laws"}),
        ({"state": ["done", "done", "diverged"], "loss": [4.0, 3.0, "exploded"]}, {"2": "diverged"}),
        ({"for_fit": [1, 1, 0], "kind": ["run", "run", "dense"]}, {"2": "its stage is not meant for laws"}),
    ],
)
def test_columns_of_a_foreign_table_say_what_their_words_say(
    table: dict[str, list[object]], left_out: dict[str, str]
) -> None:
    assert dict(observations(runs(**table), PARAMETRIC, TableReading()).excluded) == left_out


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"state": ["done", "done", "California"]}, "state='California' of row 2"),
        ({"kind": ["run", "dense", "moe"]}, r"kind='dense' of row 1 \(and 1 more\)"),
        ({"decayed": ["linear", "linear", "no"]}, "decayed='linear' of row 0"),
        ({"end_lr_share": [0, 10, 100]}, "end_lr_share='10' of row 1"),
        ({"for_fit": ["maybe", "yes", "yes"]}, "for_fit='maybe' of row 0"),
        ({"loss": [4.0, "3.0 (2 seeds)", 2.0]}, r"loss='3.0 \(2 seeds\)' of row 1"),
    ],
)
def test_a_word_that_is_not_understood_is_refused_by_name(table: dict[str, list[object]], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        observations(runs(**table), PARAMETRIC, TableReading())
