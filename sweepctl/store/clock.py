"""The file system's clock: how old a file is can only be said by the clock that stamped it."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path

FRESH_S = 30.0
"""How long a look at the clock is gone by."""

_looks: dict[int, tuple[float, float]] = {}
"""Device -> the time by its clock, and the process's own count of seconds then."""


def file_system_time(folder: Path) -> float:
    """Now, by the clock that stamps files there: what a new file got, and the seconds since, which no change
    of this host's clock disturbs. Where nothing can be written it is this host's clock."""
    try:
        device = os.stat(folder).st_dev
        look = _looks.get(device)
        if look is None or time.monotonic() - look[1] > FRESH_S:
            look = _looks[device] = (_stamp_of_a_new_file(folder), time.monotonic())
    except OSError:
        return time.time()
    return look[0] + time.monotonic() - look[1]


def _stamp_of_a_new_file(folder: Path) -> float:
    probe = folder / f".clock-{uuid.uuid4().hex[:8]}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
