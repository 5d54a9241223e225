"""Rows of metrics files that are being written, were cut short, or are long."""

from __future__ import annotations

import json
from pathlib import Path

from sweepctl.store import metrics


def test_half_a_line_is_no_row_and_no_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert metrics.read(path) == [] and metrics.tail(path) == [] and metrics.last_rate(path) is None
    path.write_text('{"step": 10, "tokens_per_s": 5}\n[1]\n{"step": 20, "tok')
    assert metrics.read(path) == [{"step": 10, "tokens_per_s": 5}]


def test_the_tail_holds_whole_lines_and_the_newest_rate(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "tokens_per_s": step * 7} for step in range(1, 2000)]
    rows.append({"step": 2000, "loss_nats": {"validation": 2.0}})  # type: ignore[dict-item]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = metrics.tail(path)
    assert 10 < len(lines) < 400 and json.loads(lines[0])["step"] == 2001 - len(lines)
    assert metrics.last_rate(path) == 1999 * 7
