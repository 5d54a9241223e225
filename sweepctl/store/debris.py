"""What killed processes left half-written, wherever they write: names that begin with a dot, and checkpoints
that were set aside."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sweepctl.errors import StorageError
from sweepctl.store import attempts, checkpoints
from sweepctl.store.clock import file_system_time
from sweepctl.store.files import names
from sweepctl.store.job import JobFolder
from sweepctl.store.workspace import Sweep, Workspace


def of_job(folder: JobFolder) -> Iterator[Path]:
    """In a job's folder, which nobody may own."""
    every_attempt = (folder.attempts / name for name in names(folder.attempts) if name.isdigit())
    places = (folder.path, folder.attempts, folder.path / "wanted", folder.path / "evaluations")
    for place in (*places, *every_attempt):
        yield from _hidden(place)
    for name in sorted(names(folder.checkpoints)):
        if name.startswith((".", checkpoints.DAMAGED)):
            yield folder.checkpoints / name


def of_sweep(sweep: Sweep) -> Iterator[Path]:
    """In a sweep's own folder, where nothing takes as long to write as a lease."""
    for place in (sweep.folder, *(sweep.folder / name for name in ("plans", "fits", "predictions"))):
        for path in _hidden(place):
            if _age_s(path) > attempts.LEASE_S:
                yield path


def owner(workspace: Workspace, path: Path) -> JobFolder | None:
    """The job in whose folder it lies."""
    store = workspace.root / "store"
    if not path.is_relative_to(store):
        return None
    _, job, *below = path.relative_to(store).parts
    return workspace.job(job) if below else None


def remove(path: Path) -> None:
    """Delete it, as far as that can be."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _hidden(place: Path) -> Iterator[Path]:
    with contextlib.suppress(StorageError):  # a stray file of this name, or a folder that is private
        yield from (place / name for name in sorted(names(place)) if name.startswith("."))


def _age_s(path: Path) -> float:
    """By the file system's own clock."""
    try:
        return file_system_time(path.parent) - max(
            os.lstat(file).st_mtime for file in (path, *path.rglob("*"))
        )
    except OSError:
        return 0.0
