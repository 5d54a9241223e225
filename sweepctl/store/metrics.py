"""An attempt's metrics.jsonl: one row every few steps, and one at every point of the held-out curve."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sweepctl.store.files import read_bytes, without_waiting

TAIL_BYTES = 8192


def rows(texts: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of a file's lines. A killed writer leaves half a line, which is none."""
    measured = []
    for line in texts:
        with contextlib.suppress(ValueError, RecursionError):
            # Older versions wrote NaN, which is no JSON: it was not measured.
            row = json.loads(line, parse_constant=lambda word: None)
            if isinstance(row, dict) and type(row.get("step")) is int and _is_measured("step", row["step"]):
                is_whole = all(itertools.starmap(_is_measured, row.items()))
                measured.append(row if is_whole else _measured(row))
    return measured


def _is_measured(name: str, value: Any) -> bool:
    """Whether a value can be of a row: a number, none, or losses by held-out set."""
    if name == "loss_nats":
        return isinstance(value, dict) and all(type(v) is float and math.isfinite(v) for v in value.values())
    if type(value) is int:
        return 0 <= value < 2**63
    return (type(value) is float and math.isfinite(value)) or (value is None and name != "tokens")


def _measured(row: dict[str, Any]) -> dict[str, Any]:
    """What of a row was measured."""
    values = {name: value for name, value in row.items() if _is_measured(name, value)}
    losses = row.get("loss_nats")
    if isinstance(losses, dict):
        values["loss_nats"] = {name: x for name, x in losses.items() if type(x) is float and math.isfinite(x)}
    return values


def read(path: Path) -> list[dict[str, Any]]:
    """Every row; none where there is no file yet."""
    return rows(lines(path))


def lines(path: Path) -> list[str]:
    """The file's lines, which need not be rows; none where there is no file yet."""
    try:
        return read_bytes(path).decode(errors="replace").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        return []


def tail(path: Path, size: int = TAIL_BYTES) -> list[str]:
    """The last whole lines of a text file, of `size` bytes at most; none where it cannot be read."""
    try:
        with open(path, "rb", opener=without_waiting) as file:
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
