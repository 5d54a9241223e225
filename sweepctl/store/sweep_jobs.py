"""A sweep's plans held against the store: what is finished, what can start now, what waits for what."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sweepctl.errors import DamagedFile, RequestError
from sweepctl.plan.plan import Job, Plan
from sweepctl.spec.execution import Execution
from sweepctl.store import attempts
from sweepctl.store.attempts import Attempt
from sweepctl.store.facts import Dispatch
from sweepctl.store.files import storage, sync_folder
from sweepctl.store.job import JobFolder, Wish
from sweepctl.store.manifest import Manifest
from sweepctl.store.result import Result
from sweepctl.store.state import JobFiles, JobFilesCache, JobState, State
from sweepctl.store.workspace import Sweep


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job of one of the sweep's current plans, and its folder."""

    job: Job
    """The job."""
    plan: Plan
    """The plan it is of; of several the one with the longest trunk."""
    folder: JobFolder
    """Its folder."""
    trunk: JobFolder | None
    """Its trunk's folder, for a branch."""

    @property
    def name(self) -> str:
        """Rung, kind, and what tells it from the rung's other jobs."""
        settings = self.plan.points[self.job.point].settings.without(self.plan.scaling.fields)
        varied = " ".join(f"{path.rpartition('.')[2]}={_short(value)}" for path, value in settings.items())
        label = self.job.label or self.job.kind
        return " ".join(part for part in (self.plan.rung_of(self.job).name, varied, label) if part)

    @property
    def first_step(self) -> int:
        """The step that its own part begins at."""
        return (self.job.cut or 0) if self.job.kind == "branch" else 0

    @property
    def steps_to_train(self) -> int:
        """Steps this job adds when its trunk is there."""
        return self.job.end - self.first_step

    def share(self, step: int) -> float:
        """How much of `steps_to_train` is done at a step."""
        return min(1.0, max(0.0, (step - self.first_step) / max(1, self.steps_to_train)))

    @property
    def flops(self) -> float:
        """Exact training FLOPs of `steps_to_train`."""
        per_token = self.plan.counts(self.job).exact_flops_per_token
        return float(self.steps_to_train * self.plan.batch_tokens(self.job) * per_token)


class SweepJobs:
    """The jobs of a sweep. A job that several stages share appears once, with its longest trunk."""

    def __init__(self, sweep: Sweep, plans: dict[str, Plan]) -> None:
        self.sweep, self.plans = sweep, plans
        self.cancelled: set[str] = set()
        """Jobs that were cancelled while these are in use."""
        self._unwanted: set[str] = set()
        self._pointer: tuple[int, int] | None = None
        self.by_id: dict[str, PlannedJob] = {}
        self.branches: dict[str, list[PlannedJob]] = {}
        for plan in plans.values():
            for job in plan.jobs:
                longest = self.by_id.get(job.id)
                if longest is None or job.end > longest.job.end:
                    self.by_id[job.id] = self._planned_job(job, plan)
        for planned_job in self.by_id.values():
            if planned_job.job.trunk is not None:
                self.branches.setdefault(planned_job.job.trunk, []).append(planned_job)

    def _planned_job(self, job: Job, plan: Plan) -> PlannedJob:
        workspace = self.sweep.workspace
        trunk = workspace.job(job.trunk) if job.trunk else None
        folder = workspace.job(job.id)
        return PlannedJob(job, plan, folder if job.kind == "trunk" else replace(folder, end=job.end), trunk)

    @property
    def rungs(self) -> list[str]:
        """The names of the plans' rungs."""
        return list(dict.fromkeys(rung.name for plan in self.plans.values() for rung in plan.rungs))

    def leave_out(self, jobs: set[str]) -> None:
        """Take jobs out."""
        for job in jobs & set(self.by_id):
            planned_job = self.by_id.pop(job)
            if planned_job.job.trunk is not None:
                self.branches[planned_job.job.trunk].remove(planned_job)

    def unwanted(self) -> set[str]:
        """The ids among these that no current plan wants any more. Plans are read where the sweep was planned
        since, and in other plans than these.

        Raises:
            RequestError, DamagedFile: a plan cannot be read.
        """
        pointer = self.sweep.pointer.stat()
        state = pointer.st_ino, pointer.st_mtime_ns
        if state != self._pointer:
            unwanted: set[str] = set()
            if not {plan.hash for plan in self.plans.values()} <= set(self.sweep.last_hashes().values()):
                unwanted = self.by_id.keys() - self.sweep.job_ids()
            if unwanted:
                unwanted -= self.sweep.workspace.wanted_elsewhere(self.sweep.name).jobs
            self._unwanted, self._pointer = unwanted, state
        return self._unwanted

    # What is looked up in files: a store that is only simulated answers otherwise

    def look(self, once: bool = False) -> JobFilesCache:
        """Files as they are from now on."""
        return JobFilesCache(once)

    def newest_attempt(self, folder: JobFolder) -> Attempt | None:
        return attempts.newest(folder)

    def every_attempt(self, folder: JobFolder) -> list[Attempt]:
        """Oldest first."""
        return attempts.every(folder)

    def has_begun(self, planned_job: PlannedJob) -> bool:
        """Whether the job has a folder."""
        return self.sweep.workspace.has_job(planned_job.job.id)

    def marked_cancelled(self) -> set[str]:
        """Jobs that were cancelled since the last launch."""
        return self.sweep.cancelled()

    def finished(self, planned_job: PlannedJob, cache: JobFilesCache | None = None) -> bool:
        """Whether nothing is left to train for it: it has its result, or, a trunk, no branch needs it that
        was not given up. `cache` keeps what was read already."""
        cache = cache or self.look()
        files = cache.of(planned_job.folder)
        if (
            files.outcome(cache.of(planned_job.trunk) if planned_job.trunk else None, planned_job.job.cut)
            is not None
        ):
            return True
        if planned_job.job.kind == "trunk":
            return all(
                b.job.id in self.cancelled
                or files.reaches(b.job.cut or 0)
                or cache.of(b.folder).result is not None
                for b in self.branches.get(planned_job.job.id, [])
            )
        return False

    def outcome(self, planned_job: PlannedJob, cache: JobFilesCache | None = None) -> Result | None:
        """The job's result, None while it is open. `cache` keeps what was read already."""
        cache = cache or self.look()
        trunk = cache.of(planned_job.trunk) if planned_job.trunk else None
        return cache.of(planned_job.folder).outcome(trunk, planned_job.job.cut)

    def can_start(self, planned_job: PlannedJob, cache: JobFilesCache | None = None) -> bool:
        """Whether an unfinished job has what it starts from. `cache` keeps what was read already."""
        if planned_job.trunk is None:
            return True
        cache = cache or self.look()
        trunk = cache.of(planned_job.trunk)
        return trunk.reaches(planned_job.job.cut or 0) or cache.of(planned_job.folder).saved != []

    def urgency(self, planned_job: PlannedJob) -> float:
        """FLOPs of the longest chain of jobs that begins here."""
        after = self.branches.get(planned_job.job.id, [])
        return planned_job.flops + max((branch.flops for branch in after), default=0.0)

    def unfinished(self) -> Iterator[PlannedJob]:
        return (planned_job for planned_job in self.by_id.values() if not self.finished(planned_job))

    def make_wishes(self, keep: str = "all") -> int:
        """Tell every trunk which checkpoints its branches want, and what is kept of those that are done with;
        the number of new wishes. Of a cut that the trunk has passed unsaved, the branch wants the checkpoint
        that it starts from. This sweep's wishes that no current plan of it wants are withdrawn, but those by
        which `keep=all` keeps checkpoints."""
        wishes = 0
        current = self.sweep.job_ids()
        for trunk_id, branches in self.branches.items():
            trunk = self.by_id[trunk_id].folder
            files = JobFiles(trunk)
            new = 0
            for planned_job in branches:
                cut = planned_job.job.cut or 0
                step = cut
                if cut not in files.saved and files.reaches(cut):
                    step = 0 if planned_job.folder.has_result() else files.start_of(cut)
                if step > 0 and planned_job.job.id in current - self.cancelled:
                    wish = Wish(step, planned_job.job.id, self.sweep.name)
                    new += trunk.wish(wish, durable=False, keep=keep)
            stale = {w.branch for w in trunk.wishes() if w.sweep == self.sweep.name} - current
            if stale:
                trunk.withdraw(self.sweep.name, stale, files.saved if keep == "all" else ())
            if new or stale:
                with storage(trunk.path / "wanted"):
                    sync_folder(trunk.path / "wanted")
            wishes += new
        return wishes

    def _cuts_needed(self, trunk: str | None) -> dict[str, int]:
        branches = self.branches.get(trunk or "", [])
        return {branch.job.id: branch.job.cut or 0 for branch in branches if not self.finished(branch)}

    def state(self, planned_job: PlannedJob, cache: JobFilesCache | None = None) -> JobState:
        """The job's state; a trunk that no branch needs any more is done. `cache` keeps what was read
        already."""
        job, cache = planned_job.job, cache or self.look()
        trunk = cache.of(planned_job.trunk) if planned_job.trunk else None
        state = cache.of(planned_job.folder).state(trunk, job.cut, job.end if job.kind == "trunk" else None)
        if (
            job.kind == "trunk"
            and not state.state.is_final
            and state.state is not State.RUNNING
            and self.finished(planned_job, cache)
        ):
            return JobState(State.DONE, job.end, state.note, state.attempts)
        return state

    def manifest(
        self,
        planned_job: PlannedJob,
        execution: Execution,
        dispatch: Dispatch,
        gone: tuple[str, ...] = (),
    ) -> Manifest:
        """What the job is told; the points of its curve are the plan's."""
        job, workspace = planned_job.job, self.sweep.workspace
        science = planned_job.plan.science(job)
        validation = planned_job.plan.validation
        execution = replace(
            execution,
            curve_tokens=validation.curve_tokens,
            curve_per_octave=validation.curve_per_octave,
        )
        trunk_science = None
        if planned_job.trunk is not None:
            trunk_science = planned_job.plan.science(planned_job.plan.by_id[job.trunk or ""]).record()
        return Manifest(
            job=job.id,
            science=science.record(),
            trunk_science=trunk_science,
            folder=str(planned_job.folder.path),
            trunk_folder=str(planned_job.trunk.path) if planned_job.trunk else None,
            data=str(workspace.corpus(planned_job.plan.corpus_name)),
            trunk_needed=self._cuts_needed(planned_job.job.trunk),
            execution=execution,
            dispatch=dispatch,
            gone=gone,
        )


def of_older_plans(sweep: Sweep) -> SweepJobs:
    """The jobs that only older plans of the sweep wanted, of plans that can be read. Some may still be
    trained."""
    older: dict[str, Plan] = {}
    for digest in sorted(sweep.plan_hashes() - set(sweep.last_hashes().values())):
        with contextlib.suppress(RequestError, DamagedFile):
            older[digest] = sweep.plan(digest)
    sweep_jobs = SweepJobs(sweep, older)
    if sweep_jobs.by_id:
        sweep_jobs.leave_out(sweep.job_ids())
    if sweep_jobs.by_id:
        sweep_jobs.leave_out(sweep.workspace.wanted_elsewhere(sweep.name).jobs)
    return sweep_jobs


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
