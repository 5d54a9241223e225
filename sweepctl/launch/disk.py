"""Whether a file system keeps what the store is built on: exclusive creation, renames that only one process
wins, durable writes, a clock that agrees with ours."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from sweepctl.store.files import create, sync_folder, write_text


@dataclass(frozen=True, slots=True)
class Disk:
    """What a file system is like."""

    faults: list[str]
    """What is wrong with it."""
    ahead_s: float
    """How far its clock is ahead of this host's."""
    sync_s: float
    """How long a durable write takes."""
    free_bytes: int
    """What is free."""


def try_out(folder: Path) -> Disk:
    """Try a folder's file system, in the folder, which is made if need be and keeps what was tried.

    Raises:
        OSError, StorageError: it cannot be written at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    faults = []
    if not create(folder / "exclusive"):
        raise FileExistsError(f"{folder} was tried before")
    if create(folder / "exclusive"):
        faults.append("O_EXCL made a file that was there")
    began = time.monotonic()
    write_text(folder / "text", "old")
    sync_s = time.monotonic() - began
    write_text(folder / "text", "new")
    if (folder / "text").read_text() != "new":
        faults.append("a file that was renamed over another reads as the old one")
    for name in ("claim", "taken"):
        (folder / name).mkdir()
        create(folder / name / "file", durable=False)
    with contextlib.suppress(OSError):
        os.rename(folder / "claim", folder / "taken")
        faults.append("a folder was renamed over another that was not empty: two processes could own a job")
    sync_folder(folder)
    return Disk(faults, _ahead_s(folder), sync_s, shutil.disk_usage(folder).free)


def _ahead_s(folder: Path) -> float:
    """The file server's clock against this host's: by the time that it gives a new file."""
    before = time.time()
    path = folder / "clock"
    path.write_text("now")
    after = time.time()
    stamped = path.stat().st_mtime
    # A kernel stamps files by its last tick, a moment before.
    return 0.0 if before - 0.1 <= stamped <= after + 0.1 else stamped - (before + after) / 2
