"""An attempt's metrics.jsonl: one row every few steps, and one at every point of the held-out curve."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sweepctl.store.files import read_bytes

TAIL_BYTES = 8192


def rows(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of a file's lines. A killed writer leaves half a line, which is none."""
    measured = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            # Older versions wrote NaN, which is no JSON: it was not measured.
            row = json.loads(line, parse_constant=lambda word: None)
            if isinstance(row, dict) and type(row.get("step")) is int:
                measured.append(row)
    return measured


def read(path: Path) -> list[dict[str, Any]]:
    """Every row; none where there is no file yet."""
    try:
        return rows(read_bytes(path).decode(errors="replace").splitlines())
    except (FileNotFoundError, IsADirectoryError):
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
    measured = [row.get("tokens_per_s") for row in rows(tail(path))]
    return next((float(rate) for rate in reversed(measured) if rate and isinstance(rate, int | float)), None)
