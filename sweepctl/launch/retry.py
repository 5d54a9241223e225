"""Which jobs that came to an end a launch takes up again."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from sweepctl.errors import RequestError
from sweepctl.launch.logs import find_job
from sweepctl.store import attempts
from sweepctl.store.attempts import Attempt
from sweepctl.store.files import storage
from sweepctl.store.job import JobFolder
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs

WORDS = ("failed", "diverged", "none")


@dataclass(frozen=True, slots=True)
class Retry:
    """What becomes of failed and diverged jobs."""

    forgiven: dict[str, int] = field(default_factory=dict)
    """Failed jobs that get a new start -> the number of their last attempt."""
    left: dict[str, str] = field(default_factory=dict)
    """Failed jobs that are left alone -> what they failed of."""
    diverged: list[PlannedJob] = field(default_factory=list)
    """Those that are trained again."""

    def apply(self) -> None:
        """Set the results of diverged jobs aside, into the attempts that wrote them."""
        for planned_job in self.diverged:
            result = planned_job.folder.result()
            assert result is not None
            folder = planned_job.folder.attempts / f"{result.attempt or 0:04d}"
            with storage(folder):
                folder.mkdir(parents=True, exist_ok=True)
                os.rename(planned_job.folder.path / "result.json", folder / "result.json")


def choose(sweep_jobs: SweepJobs, words: list[str]) -> Retry:
    """What `--retry` names: failed (the default), diverged, none, or jobs by id.

    Raises:
        RequestError: a word is none of these, or a job has nothing to retry.
    """
    jobs = {find_job(sweep_jobs, word).job.id for word in words if word not in WORDS}
    retry = Retry()
    for planned_job in sweep_jobs.by_id.values():
        job, result = planned_job.job.id, planned_job.folder.result()
        if result is not None:
            if not result.is_done and (job in jobs or "diverged" in words):
                retry.diverged.append(planned_job)
            elif job in jobs:
                raise RequestError(f"Job {job} is {result.end}: there is nothing to retry.")
            continue
        last = attempts.newest(planned_job.folder)
        if last is None or not _has_failed(planned_job.folder, last):
            continue
        if job in jobs or "failed" in words:
            retry.forgiven[job] = last.number
        elif last.facts.failure is not None:
            retry.left[job] = last.facts.error or last.facts.failure.words
    return retry


def _has_failed(folder: JobFolder, last: Attempt) -> bool:
    """Whether an attempt has failed, this one or, where it was itself cut short, one before it."""
    if last.facts.why is not None:
        return last.facts.why.has_retries
    ends = [attempt.facts.why for attempt in attempts.every(folder)]
    return not last.alive() and any(end is not None and end.has_retries for end in ends)
