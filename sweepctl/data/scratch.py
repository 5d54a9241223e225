"""A folder beside its target that takes the target's place when it is whole; what killed processes left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from sweepctl.store.files import storage, sync_folder

LOCK = "lock"
"""A file in it that is locked as long as its process lives."""
_NAME = re.compile(r"\..+\.[0-9a-f]{8}")
_CONTENT = re.compile(r"(train|validation)-\d{5}\.bin|\.?index\.json.*|\.?lock")
"""Nothing else is deleted, whatever the folder is called."""
_YOUNG_S = 86400.0


class Scratch:
    """Gone at the end, unless it was put in place. What others left behind is removed at the start."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")

    def __enter__(self) -> Scratch:
        with storage(self.path):
            self.path.mkdir(parents=True)
            for path in abandoned(self.path.parent, self.path.stat().st_mtime):
                shutil.rmtree(path, ignore_errors=True)
            unlocked = self.path / f".{LOCK}"
            self._lock = os.open(unlocked, os.O_CREAT | os.O_RDWR, 0o666)
            with contextlib.suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            os.rename(unlocked, self.path / LOCK)
        return self

    def put_at(self, target: Path) -> None:
        """Durably. Raises OSError where something stands there."""
        os.unlink(self.path / LOCK)
        os.rename(self.path, target)
        sync_folder(target.parent)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def abandoned(folder: Path, now_s: float) -> Iterator[Path]:
    """The scratch in a folder whose process is gone: nobody holds its lock. Where there is no lock (of an
    earlier version, or at its very beginning) it must be a day old, by the file system's clock."""
    for path in list(folder.iterdir()):
        if _NAME.fullmatch(path.name) and _is_scratch(path) and _abandoned(path, now_s):
            yield path


def _is_scratch(path: Path) -> bool:
    try:
        return all(_CONTENT.fullmatch(entry.name) for entry in path.iterdir())
    except OSError:  # no folder, or not ours to look into
        return False


def _abandoned(path: Path, now_s: float) -> bool:
    try:
        lock = os.open(path / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return _changed_s(path) < now_s - _YOUNG_S
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(lock)


def _changed_s(path: Path) -> float:
    """When anything in it changed last; never where that cannot be seen."""
    try:
        return max(entry.stat().st_mtime for entry in (path, *path.iterdir()))
    except OSError:
        return float("inf")
