"""An attempt's metrics.jsonl: one row every few steps, and one at every point of the held-out curve."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TAIL_BYTES = 8192


def rows(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of a file's lines. A killed writer leaves half a line, which is none."""
    measured = []
    for line in lines:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and "step" in row:
                measured.append(row)
    return measured


def read(path: Path) -> list[dict[str, Any]]:
    """Every row; none where there is no file yet."""
    try:
        return rows(path.read_text(encoding="utf-8", errors="replace").splitlines())
    except FileNotFoundError:
        return []


def tail(path: Path, size: int = TAIL_BYTES) -> list[str]:
    """The last whole lines of a text file, of `size` bytes at most; none where it cannot be read."""
    try:
        with open(path, "rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - size)
            file.seek(begin)
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()[1 if begin else 0 :]


def last_rate(path: Path) -> float | None:
    """Tokens a second by the newest row that has them."""
    measured = [row["tokens_per_s"] for row in rows(tail(path)) if row.get("tokens_per_s")]
    return float(measured[-1]) if measured else None
