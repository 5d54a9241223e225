"""Numbers as people read them, and tables that fit."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from sweepctl.report.console import count, duration, flops, place, size, table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count(999.9), "1k"), (count(12_340), "12.3k"), (count(4.99e8), "499M"), (count(2e12), "2T"),
        (flops(0), "0"), (flops(1.234e21), "1.23e21"), (size(1999), "2 kB"), (size(3.2e12), "3.2 TB"),
        (duration(89), "89 s"), (duration(5400), "1.5 h"), (duration(3e5), "3.5 days"),
    ],
)  # fmt: skip
def test_numbers(text: str, expected: str) -> None:
    assert text == expected


def test_a_path_is_what_one_would_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place(tmp_path / "sweeps" / "demo") == "sweeps/demo" and place(Path("/elsewhere")) == "/elsewhere"


@pytest.mark.parametrize(("width", "columns"), [(80, 6), (52, 5), (30, 3)])
def test_a_number_is_shown_whole_or_not_at_all(width: int, columns: int) -> None:
    names = ["rung", "tokens", "loss", "spare one", "spare two", "last"]
    row = ["320x8", "295M-1.18B", "2.3456", "1234567", "7654321", "9.99e21"]
    grid = table("t", names, [row], width=width, spare=("spare one", "spare two", "loss"))
    out = io.StringIO()
    Console(file=out, width=width).print(grid)
    assert len(grid.columns) == columns and row[1] in out.getvalue() and "…" not in out.getvalue()
