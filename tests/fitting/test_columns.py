"""Expressions of columns: numbers of every row, which rows count, and nothing but that."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweepctl.errors import RequestError
from sweepctl.fitting import columns
from sweepctl.fitting.columns import column, select
from sweepctl.spec.expression import FUNCTIONS

TABLE = pd.DataFrame(
    {
        "n": [1e6, 2e6, 4e6, 8e6],
        "tokens": ["1,000,000", "2,000,000", "-", "8,000,000"],
        "val/loss": [4.0, 3.5, 3.25, 3.0],
        "class": ["dense", "moe", "none", None],
        "schedule": ["wsd", "cosine", "wsd-s", "wsd"],
        "kept": ["yes", "no", "yes", ""],
        "good": [True, False, True, True],
        "step 1": [10, 20, 30, 40],
        "it's": [1, 2, 3, 4],
        "flops": [10**20, 2 * 10**20, 3 * 10**20, 4 * 10**20],
    }
)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("n > 1e6 and n < 8e6", [1, 2]),
        ("n > 1e6 & n < 8e6", [1, 2]),
        ("n == 1e6 | n == 8e6", [0, 3]),
        ("1e6 < n <= 4e6", [1, 2]),
        ("~(n > 1e6)", [0]),
        ("not n > 1e6", [0]),
        ("schedule == 'wsd'", [0, 3]),
        ('schedule != "wsd" and n > 2e6', [2]),
        ("schedule in ['wsd', 'wsd-s']", [0, 2, 3]),
        ("schedule not in ('wsd',)", [1, 2]),
        ("n in [1e6, 4e6]", [0, 2]),
        ("`class` == 'none'", [2]),
        ("`class` != 'none'", [0, 1, 3]),
        ("`val/loss` < 3.4", [2, 3]),
        ("`step 1` * 2 >= 60", [2, 3]),
        ("`it's` == 2 or `step 1` == 10", [0, 1]),
        ("tokens > 1500000", [1, 3]),
        ("tokens == n", [0, 1, 3]),
        ("kept", [0, 2, 3]),
        ("not good", [1]),
        ("good == False", [1]),
        ("good and n > 1e6", [2, 3]),
        ("log2(n / 1e6) == round(log2(n / 1e6)) and abs(n - 2e6) < 1", [1]),
        ("(n if good else 0) > 0", [0, 2, 3]),
        ("schedule < 'd'", [1]),
    ],
)
def test_rows_are_chosen_by_a_condition(where: str, rows: list[int]) -> None:
    assert list(select(TABLE, where).index) == rows


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("tokens", ["1,000,000", "2,000,000", "-", "8,000,000"]),
        ("tokens * 2", [2e6, 4e6, np.nan, 16e6]),
        ("`val/loss` * 2", [8.0, 7.0, 6.5, 6.0]),
        ("val/loss", [4.0, 3.5, 3.25, 3.0]),
        ("flops / 1e20", [1.0, 2.0, 3.0, 4.0]),
        ("6 * n * n * n", [6e18, 48e18, 384e18, 3072e18]),
        ("max(n, 3e6) - min(n, 1e6)", [2e6, 2e6, 3e6, 7e6]),
        ("2048", [2048.0] * 4),
    ],
)
def test_a_column_may_be_an_expression(text: str, values: list[object]) -> None:
    assert [v if v == v else None for v in column(TABLE, text)] == [v if v == v else None for v in values]


@pytest.mark.parametrize(
    "text",
    [
        "@pd.io.common.os.system('touch pwned')",
        "@pd.compat.os.system('touch pwned') == 0",
        "__import__('os').system('touch pwned') == 0",
        "n.map(print)",
        "n.values.tofile('pwned') == 0",
        "`n`.values.tofile('pwned')",
        "n.to_csv('pwned')",
        "9**9**9**9 > n.size",
        "n[0] > 1",
        "'a' * 10**10 == schedule",
        "schedule == 'a' 'b' * 10**9",
        "schedule == ['wsd']",
        "round(n, 10**9) > 1",
        "n = 3",
        "n == '1e6'",
        "schedule > 3",
        "schedule * 2 > 1",
        "n and good",
        "1 < 2",
        "True",
        "n",
        "schedule",
        "n + 1",
        "3",
        "nosuch > 1",
        "schedule == nosuch",
        "n > 'a' + 'b'",
        "n >",
        "",
        "(" * 500,
    ],
)
def test_nothing_but_a_condition_chooses_rows(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="--where") as error:
        select(TABLE, text)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["@n", "n.values", "9**9**9**9 + nosuch", "n + 'a'", "n + schedule", "'n'"])
def test_a_column_is_arithmetic(text: str) -> None:
    with pytest.raises(RequestError, match=r"neither a column nor an expression"):
        column(TABLE, text)


def test_columns_have_the_functions_of_numbers() -> None:
    assert tuple(columns._FUNCTIONS) == tuple(FUNCTIONS)


@pytest.mark.parametrize("tower", ["n * 9**9**9**9", "n**n**n", "exp(n)**n"])
def test_a_tower_of_powers_has_an_end(tower: str) -> None:
    with pytest.raises(RequestError, match="too large") if "9" in tower else contextlib.nullcontext():
        assert column(TABLE, tower).tolist() == [np.inf] * 4
