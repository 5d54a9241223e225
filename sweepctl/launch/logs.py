"""One job's attempts: what each recorded, measured and said at its end, read once or as it goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sweepctl.errors import RequestError, unknown_name
from sweepctl.launch.speed import last_sign
from sweepctl.store import attempts, metrics
from sweepctl.store.attempts import Attempt
from sweepctl.store.files import without_waiting
from sweepctl.store.state import JobState
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs

POLL_S = 0.5
PROCESS_BYTES = 1 << 16
"""How much of a process's log is shown."""
PATIENCE_S = 3.0
"""How long a job that nobody trains is watched for the next attempt: a launcher takes it up again at once."""


@dataclass(frozen=True, slots=True)
class JobLog:
    """A job, where it stands, and its attempts, one of them in full."""

    planned_job: PlannedJob
    """The job."""
    state: JobState
    """Where it stands."""
    attempts: list[Attempt]
    """All that were made, oldest first."""
    chosen: Attempt | None
    """The one that is shown in full."""
    lines: list[str]
    """Those of that one's metrics."""
    waits: str
    """Why a job without attempts has none."""


def find_job(sweep_jobs: SweepJobs, name: str) -> PlannedJob:
    """The job of an id or of the beginning of one.

    Raises:
        RequestError: no job of the sweep begins so, or several do.
    """
    jobs = [job for job in sweep_jobs.by_id if job.startswith(name)]
    if name in jobs or len(jobs) == 1:
        return sweep_jobs.by_id[name if name in jobs else jobs[0]]
    if not jobs or not name:
        raise unknown_name(f"job in sweep {sweep_jobs.sweep.name}", name, sweep_jobs.by_id)
    some = ", ".join(f"{job} ({sweep_jobs.by_id[job].name})" for job in sorted(jobs)[:5])
    more = f" and {len(jobs) - 5} more" if len(jobs) > 5 else ""
    raise RequestError(f"{name!r} is the beginning of {len(jobs)} jobs: {some}{more}.")


def read_job_log(sweep_jobs: SweepJobs, planned_job: PlannedJob, number: int | None = None) -> JobLog:
    """The job's attempts as they are now.

    Raises:
        RequestError: there is no attempt of this number.
    """
    tries = attempts.every(planned_job.folder)
    chosen = next((attempt for attempt in reversed(tries) if number in (None, attempt.number)), None)
    if number is not None and chosen is None:
        numbers = ", ".join(str(attempt.number) for attempt in tries)
        there_are = f"its attempts are {numbers}" if tries else "it was never started"
        raise RequestError(f"Job {planned_job.job.id} has no attempt {number}; {there_are}.")
    lines = metrics.lines(chosen.metrics) if chosen else []
    return JobLog(
        planned_job,
        sweep_jobs.state(planned_job),
        tries,
        chosen,
        lines,
        "" if tries else _waits(sweep_jobs, planned_job),
    )


def seconds(attempt: Attempt) -> float | None:
    """From its claim to its end, to now while it lives, to its last sign of life where it was killed."""
    facts = attempt.facts
    if facts.started is None:
        return None
    last = time.time() if attempt.alive() else last_sign(attempt)
    return max(0.0, (facts.ended or last) - facts.started)


def _waits(sweep_jobs: SweepJobs, planned_job: PlannedJob) -> str:
    """Why a job that was never tried was not."""
    if sweep_jobs.outcome(planned_job) is not None:
        return "its trunk diverged before the cut, and it with it"
    if planned_job.job.id in sweep_jobs.sweep.cancelled():
        return "it was cancelled"
    if sweep_jobs.can_start(planned_job) or planned_job.trunk is None:
        return "it waits for a launch to take it up"
    trunk = sweep_jobs.by_id[planned_job.job.trunk or ""]
    state, cut = sweep_jobs.state(trunk), planned_job.job.cut
    return f"it waits for step {cut} of its trunk {trunk.job.id}, {state.state} at step {state.step}"


class Tail:
    """The whole lines that were added to a growing text file since the last look; at the first look, its last
    `size` bytes."""

    def __init__(self, path: Path | None, size: int | None = None) -> None:
        self.path, self._size, self._place = path, size, -1

    def lines(self, all_of_it: bool = False) -> list[str]:
        """New lines; with `all_of_it` also one whose end is not written."""
        if self.path is None:
            return []
        try:
            with open(self.path, "rb", opener=without_waiting) as file:
                if self._place < 0:
                    end = file.seek(0, os.SEEK_END)
                    self._place = max(0, end - self._size) if self._size is not None else 0
                file.seek(self._place)
                new = file.read()
        except OSError:
            return []
        whole = len(new) if all_of_it else new.rfind(b"\n") + 1
        self._place += whole
        return new[:whole].decode(errors="replace").splitlines()


@dataclass(frozen=True, slots=True)
class Event:
    """What happens to a followed job."""

    what: Literal["untried", "attempt", "lines", "ended"]
    """It was not tried yet; an attempt is there, wrote lines, ended."""
    attempt: Attempt | None = None
    """Which; None where it was not tried yet."""
    lines: tuple[str, ...] = ()
    """That it wrote."""


def follow(
    sweep_jobs: SweepJobs,
    planned_job: PlannedJob,
    number: int | None = None,
    process: bool = False,
    poll_s: float = POLL_S,
) -> Iterator[Event]:
    """What the job's newest attempt writes, as it comes, then that of the next one when there is one. Ends
    with the job, or when nobody trains it any more.

    With `number` only that attempt is followed. With `process` the lines are its process's log, else its
    metrics.
    """
    current = _attempt(planned_job, number)
    if current is None:
        yield Event("untried")
    while current is None:
        if sweep_jobs.outcome(planned_job) is not None:
            return
        time.sleep(poll_s)
        current = _attempt(planned_job, number)
    while current is not None:
        yield Event("attempt", current)
        tail = Tail(log_of(current), PROCESS_BYTES) if process else Tail(current.metrics)
        yield from _written(planned_job, current, tail, poll_s)
        yield Event("ended", _attempt(planned_job, current.number))
        current = _next(sweep_jobs, planned_job, current, poll_s) if number is None else None


def _written(planned_job: PlannedJob, attempt: Attempt, tail: Tail, poll_s: float) -> Iterator[Event]:
    """Its lines until it has ended, is dead, or another attempt owns the job."""
    over = False
    while not over:
        now = _attempt(planned_job, attempt.number) or attempt
        over = now.ended or not now.alive() or attempts.superseded(planned_job.folder, attempt)
        if new := tail.lines(all_of_it=over):  # read last, so that what came before the end is not lost
            yield Event("lines", now, tuple(new))
        if not over:
            time.sleep(poll_s)


def _next(sweep_jobs: SweepJobs, planned_job: PlannedJob, last: Attempt, poll_s: float) -> Attempt | None:
    """The attempt after one that ended, None where the job is finished or nobody takes it up."""
    until = time.monotonic() + PATIENCE_S
    while True:
        newest = attempts.newest(planned_job.folder)
        if newest is not None and newest.number > last.number:
            return newest
        if sweep_jobs.finished(planned_job) or time.monotonic() > until:
            return None
        time.sleep(poll_s)


def _attempt(planned_job: PlannedJob, number: int | None) -> Attempt | None:
    """The attempt of this number, else the newest, as it is now."""
    tries = attempts.every(planned_job.folder)
    return next((attempt for attempt in reversed(tries) if number in (None, attempt.number)), None)


def log_of(attempt: Attempt) -> Path | None:
    """The log of its process, which a process that takes several jobs writes for all of them."""
    return Path(attempt.facts.log) if attempt.facts.log else None
