"""What a sweep once wanted and no current plan wants any more, and what finished jobs need not keep."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from sweepctl.errors import InvalidValue
from sweepctl.store import attempts, checkpoints, retention
from sweepctl.store.board import Board
from sweepctl.store.job import JobFolder
from sweepctl.store.workspace import Sweep


@dataclass(slots=True)
class Unwanted:
    """Folders to delete, with their bytes: whole jobs, checkpoints, and damaged or half-written ones."""

    jobs: dict[str, tuple[Path, int]] = field(default_factory=dict)
    checkpoints: list[tuple[checkpoints.Checkpoint, int]] = field(default_factory=list)
    debris: list[tuple[Path, int]] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.jobs or self.checkpoints or self.debris)

    @property
    def bytes(self) -> int:
        parts = [*self.jobs.values(), *self.checkpoints, *self.debris]
        return sum(size for _, size in parts)


def find(sweep: Sweep, keep: str) -> Unwanted:
    """Look, delete nothing.

    Raises:
        InvalidValue: `keep` is not a policy.
    """
    if keep not in ("none", "last", "all"):
        raise InvalidValue("keep", keep, "none, last or all")
    found = Unwanted()
    board = Board(sweep, sweep.plans())
    elsewhere = sweep.workspace.wanted_elsewhere(sweep.name)
    past = {job.id for plan in sweep.past_plans() for job in plan.jobs}
    for job_id in sorted(past - set(board.entries) - elsewhere):
        folder = sweep.workspace.job(job_id)
        if folder.path.exists():
            if _alive(folder):
                found.busy.append(job_id)
            else:
                found.jobs[job_id] = (folder.path, _size(folder.path))
    for entry in board.entries.values():
        if not _alive(entry.folder):
            _find_in(entry.folder, entry.job.kind == "trunk", keep, entry.job.id in elsewhere, found)
    return found


def _find_in(folder: JobFolder, trunk: bool, keep: str, shared: bool, found: Unwanted) -> None:
    for path in _debris(folder):
        found.debris.append((path, _size(path)))
    if shared or keep == "all":
        return
    if trunk:
        steps = retention.surplus(folder, keep)  # type: ignore[arg-type]
    else:
        steps = checkpoints.steps(folder) if keep == "none" and folder.has_result() else []
    for step in steps:
        checkpoint = checkpoints.at(folder, step)
        found.checkpoints.append((checkpoint, _size(checkpoint.path)))


def delete(sweep: Sweep, found: Unwanted) -> None:
    """Delete what `find` found, and this sweep's wishes for branches it no longer wants.

    What another sweep's plan has come to want since, or a process has taken up, stays.
    """
    elsewhere = sweep.workspace.wanted_elsewhere(sweep.name)
    for job_id, (path, _) in found.jobs.items():
        if job_id in elsewhere or _alive(sweep.workspace.job(job_id)):
            continue
        gone = path.with_name(f".{path.name}.gone")
        os.replace(path, gone)
        shutil.rmtree(gone, ignore_errors=True)
    for checkpoint, _ in found.checkpoints:
        checkpoints.remove(checkpoint)
    for path, _ in found.debris:
        shutil.rmtree(path, ignore_errors=True)
    board = Board(sweep, sweep.plans())
    for trunk_id in board.branches:
        folder = board.entries[trunk_id].folder
        stale = {w.branch for w in folder.wishes() if w.sweep == sweep.name and w.branch not in board.entries}
        folder.withdraw(sweep.name, stale)


def _alive(folder: JobFolder) -> bool:
    last = attempts.newest(folder)
    return last is not None and last.alive()


def _debris(folder: JobFolder) -> list[Path]:
    if not folder.checkpoints.is_dir():
        return []
    names = sorted(os.listdir(folder.checkpoints))
    return [folder.checkpoints / name for name in names if name.startswith((".", "damaged-"))]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
