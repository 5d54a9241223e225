"""What a sweep once wanted and no current plan wants any more, and what finished jobs need not keep."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sweepctl.data.scratch import abandoned
from sweepctl.errors import InvalidValue
from sweepctl.store import attempts, checkpoints, debris, retention
from sweepctl.store.clock import file_system_time
from sweepctl.store.ends import End
from sweepctl.store.files import exists, storage
from sweepctl.store.job import JobFolder
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from sweepctl.store.workspace import Sweep, Wanted


@dataclass(slots=True)
class Unwanted:
    """What there is to delete."""

    keep: str = "all"
    """The policy for checkpoints: none, last or all."""
    jobs: dict[str, tuple[Path, int]] = field(default_factory=dict)
    """Job -> its folder and bytes, of jobs that nobody wants any more."""
    checkpoints: list[tuple[checkpoints.Checkpoint, int]] = field(default_factory=list)
    """Checkpoints that the policy gives up, and their bytes."""
    debris: list[tuple[Path, int]] = field(default_factory=list)
    """Damaged and half-written folders, and their bytes."""
    busy: list[str] = field(default_factory=list)
    """Jobs that nobody wants any more but somebody trains."""
    notes: list[str] = field(default_factory=list)
    """What stays because of what could not be known."""

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
    unwanted, wanted = Unwanted(keep), _Wanted(sweep)
    sweep_jobs = SweepJobs(sweep, sweep.plans())
    for job_id in sorted({job.id for plan in sweep.past_plans() for job in plan.jobs}):
        folder = sweep.workspace.job(job_id)
        if wanted.by_anyone(job_id) or not exists(folder.path.parent):
            continue
        unwanted.debris += _sized(folder.path.parent.glob(f".{job_id}.*.gone"))
        if exists(folder.path):
            if attempts.owned(folder):
                unwanted.busy.append(job_id)
            else:
                unwanted.jobs[job_id] = (folder.path, _size(folder.path))
    for planned_job in sweep_jobs.by_id.values():
        if not attempts.owned(planned_job.folder):
            unwanted.debris += _sized(debris.of_job(planned_job.folder))
            if not wanted.by_others(planned_job.job.id):
                saved = (
                    checkpoints.at(planned_job.folder, step)
                    for step in _to_spare(sweep_jobs, planned_job, keep)
                )
                unwanted.checkpoints += [(checkpoint, _size(checkpoint.path)) for checkpoint in saved]
    unwanted.debris += _sized(debris.of_sweep(sweep))
    with contextlib.suppress(OSError):  # there is no data, or it is not ours to look at
        data = sweep.workspace.root / "data"
        unwanted.debris += _sized(abandoned(data, file_system_time(data)))
    unwanted.notes = [
        f"What sweep {name} wants cannot be read, so that jobs with results stay. {why}"
        for name, why in wanted.unread.items()
    ]
    return unwanted


def _to_spare(sweep_jobs: SweepJobs, planned_job: PlannedJob, keep: str) -> list[int]:
    """Steps of a job's checkpoints that the policy gives up: of a trunk, none that a branch still needs."""
    if keep == "all":
        return []
    if planned_job.job.kind != "trunk":
        return (
            checkpoints.steps(planned_job.folder)
            if keep == "none" and planned_job.folder.has_result()
            else []
        )
    branches = sweep_jobs.branches.get(planned_job.job.id, [])
    needed = [branch.job.cut or 0 for branch in branches if not sweep_jobs.finished(branch)]
    return retention.surplus(planned_job.folder, {keep}, needed)


def delete(sweep: Sweep, unwanted: Unwanted) -> None:
    """Delete what `find` shows, and this sweep's wishes for branches it no longer wants.

    Each thing is looked at once more just before: what a sweep has come to want since, or a process has
    taken up, stays.
    """
    workspace, wanted = sweep.workspace, _Wanted(sweep)
    for job_id in unwanted.jobs:
        if not wanted.by_anyone(job_id):
            _delete_job(workspace.job(job_id), lambda job_id=job_id: not wanted.by_anyone(job_id))  # type: ignore[misc]
    sweep_jobs = SweepJobs(sweep, sweep.plans())
    for checkpoint, _ in unwanted.checkpoints:
        planned_job = sweep_jobs.by_id.get(checkpoint.job)
        if planned_job is None or attempts.owned(planned_job.folder) or wanted.by_others(checkpoint.job):
            continue
        if checkpoint.step in _to_spare(sweep_jobs, planned_job, unwanted.keep):
            checkpoints.remove(checkpoint)
    for path, _ in unwanted.debris:
        owner = debris.owner(workspace, path)
        if owner is None or not attempts.owned(owner):
            debris.remove(path)
    mine = sweep.job_ids()
    for trunk_id in sweep_jobs.branches:
        folder = sweep_jobs.by_id[trunk_id].folder
        stale = {w.branch for w in folder.wishes() if w.sweep == sweep.name} - mine
        folder.withdraw(sweep.name, stale)


class _Wanted:
    """What the plans of all sweeps want, read anew whenever one of them has been planned."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._pointers: tuple[tuple[str, int], ...] | None = None
        self._mine: set[str] = set()
        self._others = Wanted(set(), {})

    @property
    def unread(self) -> dict[str, str]:
        """Sweeps that may want more than is known, and why."""
        self._refresh()
        return self._others.unread

    def by_others(self, job_id: str) -> bool:
        self._refresh()
        return job_id in self._others.jobs

    def by_anyone(self, job_id: str) -> bool:
        """Also whether a sweep that cannot be read may want what could not be had again for nothing."""
        return self.by_others(job_id) or job_id in self._mine or self._may_be_wanted(job_id)

    def _may_be_wanted(self, job_id: str) -> bool:
        folder, unread = self.sweep.workspace.job(job_id), self._others.unread
        return bool(unread) and (folder.has_result() or any(w.sweep in unread for w in folder.wishes()))

    def _refresh(self) -> None:
        pointers = self.sweep.workspace.pointers()
        if pointers != self._pointers:
            self._others = self.sweep.workspace.wanted_elsewhere(self.sweep.name)
            self._mine, self._pointers = self.sweep.job_ids(), pointers


def _delete_job(folder: JobFolder, sure: Callable[[], bool]) -> None:
    """Own the job, so that nobody starts it now, then delete its folder."""
    owner = attempts.claim(folder, {"launcher": "clean"})
    if owner is None:
        return
    if not sure():
        owner.end(End.STOPPED)
        return
    gone = folder.path.with_name(f".{folder.id}.{uuid.uuid4().hex[:6]}.gone")
    with storage(folder.path):
        os.rename(folder.path, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _sized(paths: Iterable[Path]) -> list[tuple[Path, int]]:
    return [(path, _size(path)) for path in paths]


def _size(path: Path) -> int:
    """Bytes of a file or of all in a folder, as far as they can be seen."""
    sizes = 0
    for file in (path, *path.rglob("*")):
        with contextlib.suppress(OSError):
            facts = file.lstat()
            sizes += facts.st_size if stat.S_ISREG(facts.st_mode) else 0
    return sizes
