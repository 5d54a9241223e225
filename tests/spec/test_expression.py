"""Expressions are arithmetic: they have a value or end at once, and reach nothing else."""

from __future__ import annotations

import ast
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepctl.errors import RequestError
from sweepctl.spec.expression import LONGEST, evaluate


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("s / sqrt(m)", 1.0),
        ("2 ** -1", 0.5),
        ("pow2(100)", 128.0),
        ("1 if m == 4 and not s > 2 else 2", 1.0),
        ("1 if 1 < s < m else 1 / 0", 1.0),
        ("1 / 0 if m < 4 or s != 2 else 7", 7.0),
        ("1 if m in [3, 4] else 0", 1.0),
        ("1 if m not in (3, 4) else 0", 0.0),
        ("`a/b` * 2", 6.0),
        ("round(`a/b` / 7, 3)", 0.429),
        ("7 // 2 + 7 % 2", 4.0),
        ("\N{MICRO SIGN} + 1", 9.0),
    ],
)
def test_what_an_expression_is_worth(text: str, value: float) -> None:
    names = {"s": 2.0, "m": 4.0, "a/b": 3.0, "quoted0": 99.0, "\N{MICRO SIGN}": 8.0}
    assert evaluate(text, names) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9",
        "2**-10**400",
        "*".join(["9" * 300] * 30),
        "round(12345, -10**9)",
        "round(1.5, 10**9)",
        "round(7, 0.5)",
        "round(1e308 * 10)",
        "9" * 5000,
        "9" * (LONGEST + 1),
        "(" * 300 + "1" + ")" * 300,
        "-" * 9000 + "1",
        "1" + "+1" * 4900,
        "1 if " * 1500 + "1",
        "(-8) ** 0.5",
        "'a' * 10**9",
        "['a'] * 10**9",
        "__import__('os').system('true')",
        "().__class__",
        "m.real",
        "[m for m in (1,)]",
        "(lambda: 1)()",
        "f'{m}'",
        "min()",
        "min(*[1, 2])",
        "round(1, ndigits=2)",
        "m is 4",
        "m in s",
        "m in []",
        "m == 4",
        "True",
        "1j",
        "1e999",
        "@pd",
        "nosuch",
        "`nosuch` + 1",
        "`m",
        "",
        "\x00",
    ],
)
def test_what_is_no_number_is_refused_at_once(text: str) -> None:
    with pytest.raises(RequestError) as error:
        evaluate(text, {"m": 4.0, "s": 2.0})
    assert "\n" not in str(error.value)


def test_a_name_may_be_too_large_a_number() -> None:
    with pytest.raises(RequestError, match="too large"):
        evaluate("huge * 2", {"huge": 10**400})


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.floats(0.1, 10))
def test_arithmetic_is_that_of_python(a: int, b: int, c: float) -> None:
    text = "a * b - c / 2 + max(a, b) // 3 if a <= b else abs(a) % 7 - round(c)"
    names = {"a": a, "b": b, "c": c}
    expected = eval(compile(ast.parse(text, mode="eval"), "", "eval"), {**names, "abs": abs, "max": max})
    assert math.isclose(evaluate(text, names), expected)
