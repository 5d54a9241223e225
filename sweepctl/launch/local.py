"""The local launcher: workers in the foreground, the longest job first, a branch as soon as it can start."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from sweepctl.errors import InvalidValue, StorageError, WorkFailed
from sweepctl.launch.workers import Pool, Worker
from sweepctl.spec.execution import Execution
from sweepctl.store.board import Board, Entry
from sweepctl.store.ends import End
from sweepctl.store.facts import Dispatch
from sweepctl.store.protocol import Died, Ended, Event, Progress, Ready

POLL_S = 0.2
CANCEL_S = 1.0
BUSY_S = 2.0
"""How long a job that another process owns is left alone before it is looked at again."""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """This machine: `workers` processes in the foreground (null for one a GPU, or one a core / threads)."""

    kind: Literal["local"] = "local"
    workers: int | None = None
    retries: int = 3
    execution: Execution = Execution()

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InvalidValue("workers", self.workers, "at least 1, or null")
        if self.retries < 0:
            raise InvalidValue("retries", self.retries, "at least 0")


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a sweep that one launch in the foreground trains, beside others like it."""

    rungs: frozenset[str] | None = None
    """Only jobs of these rungs; None: of all."""
    dispatch: Dispatch = Dispatch(launcher="local")
    """What attempts record of who gave them their place."""
    logs: Path | None = None
    """Where the workers' logs lie; None: with the sweep's."""
    patience_s: float = math.inf
    """How long it waits for what others train before it ends."""


class Watcher(Protocol):
    """Somebody who is shown what happens."""

    def started(self, entry: Entry, worker: int) -> None: ...

    def progress(self, entry: Entry, step: int) -> None: ...

    def ended(self, entry: Entry, end: End | None, message: str) -> None: ...

    def tick(self, elsewhere: int) -> None: ...


@dataclass(slots=True)
class Report:
    """What a launch did: job ids by outcome, and messages of what failed."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    diverged: list[str] = field(default_factory=list)
    stopped: bool = False
    cancelled: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return 130 if self.stopped else int(bool(self.failed or self.blocked))

    @property
    def goes_on(self) -> bool:
        """Whether jobs may be trained after the launch has returned."""
        return False


class LocalLaunch:
    """Trains what a board lacks until nothing can be started any more."""

    def __init__(
        self,
        board: Board,
        config: LocalSettings,
        watcher: Watcher,
        leave: dict[str, str] | None = None,
        share: Share = Share(),
    ) -> None:
        self.board, self.config, self.watcher, self.share = board, config, watcher, share
        rungs = share.rungs
        self.open = {
            entry.job.id: entry
            for entry in board.unfinished()
            if rungs is None or entry.plan.rung_of(entry.job).name in rungs
        }
        self.report = Report(failed=dict(leave or {}))
        self.running: dict[str, Entry] = {}
        self._busy_until: dict[str, float] = {}
        self._deaths: dict[str, tuple[int, int]] = {}
        self._looked_at = 0.0
        self._ended_at: dict[str, int] = {}
        self._idle_since = time.monotonic()
        self._stillborn = 0
        self._reopened: set[str] = set()
        self._urgency = {job: board.urgency(entry) for job, entry in self.open.items()}

    def run(self) -> Report:
        """Train everything that can be trained.

        Raises:
            StorageError: the store cannot be written; every worker has saved what it could.
        """
        self.board.make_wishes(self.config.execution.keep)
        if not self.open:
            return self.report
        gpus = visible_gpus() if self.config.execution.device != "cpu" else []
        count = min(worker_count(self.config, len(gpus)), len(self.open))
        if threading.current_thread() is threading.main_thread():
            # A batch system's notice ends a launch like Ctrl-C.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        logs = self.share.logs or self.board.sweep.folder / "logs"
        pool = Pool(count, self.config.execution.threads, gpus, logs)
        try:
            while self._step(pool):
                pass
        except KeyboardInterrupt:
            self.report.stopped = True
        finally:
            try:
                pool.stop()
            except KeyboardInterrupt:
                pool.kill()
        still = (entry for job, entry in self.open.items() if job not in self.report.failed)
        if not self.report.stopped:
            self.report.blocked = sorted(e.job.id for e in still if not self.board.finished(e))
        return self.report

    def _step(self, pool: Pool) -> bool:
        """Dispatch, listen; False when nothing runs and nothing can start."""
        self._obey_cancel(pool)
        for worker in pool.free():
            entry = self._next()
            if entry is None:
                break
            self._start(entry, worker)
        elsewhere = sum(until > 0 for until in self._busy_until.values())
        if not self.running and not elsewhere:
            self._looked_at = -CANCEL_S  # whoever was cancelled last is told apart from who is blocked
            self._obey_cancel(pool)
            return self._reopen()
        if self.running:
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > self.share.patience_s:
            return False
        for worker, event in pool.events(POLL_S):
            self._handle(worker, event)
        self.watcher.tick(elsewhere)
        return True

    def _reopen(self) -> bool:
        """Take up trunks whose checkpoints are gone, deleted by another sweep's policy, before their branches
        started; False where there is none. Once a trunk."""
        without = {e.job.trunk for e in self.open.values() if e.job.trunk} - set(self.open) - self._reopened
        lost = {trunk for trunk in without if not self.board.finished(self.board.entries[trunk])}
        if not lost:
            return False
        self._reopened |= lost
        self.open |= {trunk: self.board.entries[trunk] for trunk in lost}
        self._urgency |= {trunk: self.board.urgency(self.board.entries[trunk]) for trunk in lost}
        self.board.make_wishes(self.config.execution.keep)
        return True

    def _obey_cancel(self, pool: Pool) -> None:
        """Give up what `sweepctl cancel` named since the last look."""
        if time.monotonic() - self._looked_at < CANCEL_S:
            return
        self._looked_at = time.monotonic()
        cancelled = self.board.sweep.cancelled()
        self.board.given_up |= cancelled
        for job in cancelled & set(self.open):
            entry = self.open.pop(job)
            self._busy_until.pop(job, None)
            self.report.cancelled.append(job)
            for worker in pool.workers:
                if worker.job == job:
                    worker.stop_job()
            self.watcher.ended(entry, None, "")

    def _next(self) -> Entry | None:
        """The most urgent job that can start now."""
        now = time.monotonic()
        for job in sorted(self.open, key=lambda job: -self._urgency[job]):
            entry = self.open[job]
            if job in self.running or job in self.report.failed or self._busy_until.get(job, 0) > now:
                continue
            if self.board.finished(entry):
                self._finish(entry, End.DONE)
                continue
            if self.board.can_start(entry):
                return entry
        return None

    def _start(self, entry: Entry, worker: Worker) -> None:
        dispatch = replace(self.share.dispatch, log=str(worker.log))
        if worker.give(self.board.manifest(entry, self.config.execution, dispatch)):
            self.running[entry.job.id] = entry
            self._busy_until.pop(entry.job.id, None)
            self.watcher.started(entry, worker.number)

    def _handle(self, worker: Worker, event: Event | Died) -> None:
        if isinstance(event, Ready):
            worker.ready = True
            return
        if isinstance(event, Died) and not worker.ready:
            self._stillborn += 1
            if self._stillborn > self.config.retries:
                raise WorkFailed(f"Worker processes end before their first job; {worker.log} says why.")
        job = (worker.job or "") if isinstance(event, Died) else event.job
        if isinstance(event, (Ended, Died)):
            worker.job = None
            self.running.pop(job, None)
        entry = self.open.get(job)
        if entry is None:
            return
        if isinstance(event, Progress):
            self.watcher.progress(entry, event.step)
        elif isinstance(event, Ended):
            self._ended(entry, event.end, event.message)
        elif isinstance(event, Died):
            self._died(entry, event)

    def _ended(self, entry: Entry, end: End, message: str) -> None:
        if not end.frees_job:
            self._busy_until[entry.job.id] = time.monotonic() + BUSY_S
        elif end is End.STORAGE:
            raise StorageError(message)
        elif end in (End.FAILED, End.REQUEST):
            self._fail(entry, message)
        elif end is End.STOPPED:
            self.watcher.ended(entry, end, message)
        elif self.board.finished(entry):
            self._finish(entry, end)
        else:
            self._unfinished(entry)

    def _unfinished(self, entry: Entry) -> None:
        """A trunk at its last wish, and yet a branch waits: somebody withdrew the wish meanwhile. Wish again,
        and take it up again where it then gets further."""
        if self.board.sweep.cancelled() - self.board.given_up:
            self._looked_at = -CANCEL_S  # it ended because of a cancel that was not looked at yet
            return
        step = self.board.state(entry).step
        if step <= self._ended_at.get(entry.job.id, -1):
            self._fail(entry, f"it ended at step {step} without what its branches want")
            return
        self._ended_at[entry.job.id] = step
        self.board.make_wishes(self.config.execution.keep)
        self.watcher.ended(entry, End.STOPPED, "")

    def _died(self, entry: Entry, event: Died) -> None:
        """Its process is gone: take the job up again unless it keeps dying at the same place."""
        step = self.board.state(entry).step
        deaths, where = self._deaths.get(entry.job.id, (0, -1))
        deaths = deaths + 1 if step <= where else 1
        self._deaths[entry.job.id] = (deaths, step)
        reason = event.reason
        if deaths > self.config.retries:
            self._fail(entry, f"its process died {deaths} times at step {step} ({reason})")
        else:
            self.watcher.ended(entry, End.DIED, f"{reason}; it goes on from its last checkpoint")

    def _finish(self, entry: Entry, end: End) -> None:
        self.open.pop(entry.job.id, None)
        self._busy_until.pop(entry.job.id, None)
        self.report.finished.append(entry.job.id)
        result = self.board.outcome(entry)
        if result is not None and not result.is_done:
            self.report.diverged.append(entry.job.id)
        self.watcher.ended(entry, result.end if result else end, result.reason if result else "")

    def _fail(self, entry: Entry, message: str) -> None:
        self.report.failed[entry.job.id] = message
        self._busy_until.pop(entry.job.id, None)
        self.watcher.ended(entry, End.FAILED, message)


def worker_count(config: LocalSettings, gpus: int) -> int:
    """Processes to run: as configured, else one a GPU, else the cores this process may use / threads."""
    if config.workers is not None:
        return config.workers
    if gpus:
        return gpus
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // config.execution.threads)


def visible_gpus() -> list[str]:
    """GPUs that jobs here may use, as CUDA_VISIBLE_DEVICES names them, without importing torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [part.strip() for part in chosen.split(",") if part.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]
