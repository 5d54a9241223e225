"""The local launcher: workers in the foreground, the longest job first, a branch as soon as it can start."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from sweepctl.errors import InvalidValue, StorageError
from sweepctl.launch import mps
from sweepctl.launch.due import Due
from sweepctl.launch.feed import Decision, Feed
from sweepctl.launch.outcome import Trained
from sweepctl.launch.places import Places
from sweepctl.launch.retries import Retries
from sweepctl.launch.retry import Retry
from sweepctl.launch.rungs import each_pattern, for_rung
from sweepctl.launch.workers import Pool, Worker, check_price, check_watchdog, seconds_of
from sweepctl.spec.execution import Execution
from sweepctl.spec.peaks import check_gpu_memory
from sweepctl.store.ends import End
from sweepctl.store.facts import Dispatch
from sweepctl.store.protocol import Died, Ended, Event, Progress, Saved
from sweepctl.store.state import State
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs

POLL_S = 0.2
CANCEL_S = 1.0
"""How often it looks whether anything was cancelled."""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """This machine."""

    kind: Literal["local"]
    """The launcher."""
    workers: int | None
    """Processes in the foreground; None for `execution.per_gpu` a GPU, or one a core / threads."""
    watchdog_min: float | None
    """How long a worker may say nothing before it is ended; None: for ever."""
    retries: Retries
    """How often a job is taken up again, by class of failure."""
    execution: Execution
    """How jobs are run."""
    price_per_device_hour: float | None
    """What a device costs, for plans to say; None: they say no price."""
    gpu_memory: float | str | None
    """GB of a GPU, or its name, for plans to say which rungs do not fit; None: they say nothing of it."""
    rungs: dict[str, dict[str, Any]]
    """What `execution` has in its place for rungs by name or pattern."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InvalidValue("workers", self.workers, "at least 1, or null")
        check_watchdog(self.watchdog_min)
        check_price(self.price_per_device_hour)
        check_gpu_memory(self.gpu_memory)
        for pattern, own in self.rungs.items():
            if own.keys() != {"execution"} or not isinstance(own["execution"], Mapping):
                raise InvalidValue(
                    f"rungs.{pattern}", own, "execution and its keys, such as {execution: {per_gpu: 8}}"
                )
            if "keep" in own["execution"]:
                raise InvalidValue(
                    f"rungs.{pattern}.execution.keep", own["execution"]["keep"], "set for all rungs"
                )
        each_pattern(self.execution, self._executions)

    @property
    def _executions(self) -> dict[str, Mapping[str, Any]]:
        return {pattern: own["execution"] for pattern, own in self.rungs.items()}

    def execution_of(self, rung: str) -> Execution:
        """How jobs of a rung are run."""
        return for_rung(self.execution, self._executions, rung)


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

    def started(self, planned_job: PlannedJob, worker: int) -> None: ...

    def progress(self, planned_job: PlannedJob, step: int) -> None: ...

    def ended(self, decision: Decision) -> None: ...

    def tick(self, elsewhere: int) -> None: ...

    def say(self, text: str) -> None: ...


class LocalLaunch:
    """Trains what a sweep lacks until nothing can be started any more."""

    def __init__(
        self,
        sweep_jobs: SweepJobs,
        settings: LocalSettings,
        watcher: Watcher,
        retry: Retry | None = None,
        share: Share = Share(),
    ) -> None:
        self.sweep_jobs, self.settings, self.watcher, self.share = sweep_jobs, settings, watcher, share
        retry, rungs = retry or Retry(), share.rungs
        self.report = Trained(failed=dict(retry.left))
        self.feed = Feed(
            sweep_jobs,
            (e for e in sweep_jobs.unfinished() if rungs is None or e.plan.rung_of(e.job).name in rungs),
            settings.retries,
            tell=self._decided,
            forgiven=lambda job: retry.forgiven.get(job, 0),
            keep=settings.execution.keep,
        )
        self.feed.given_up |= retry.left.keys()
        self._cancels = Due(CANCEL_S)
        self._executions = {rung: settings.execution_of(rung) for rung in sweep_jobs.rungs}
        self._gpus: list[str] = []
        self._workers: list[Worker] = []
        self._idle_since = time.monotonic()

    def run(self) -> Trained:
        """Train everything that can be trained.

        Raises:
            StorageError: the store cannot be written; every worker has saved what it could.
            WorkFailed: workers end before they begin.
        """
        execution, feed = self.settings.execution, self.feed
        self.sweep_jobs.make_wishes(execution.keep)
        if not feed.open:
            return self.report
        self._gpus = gpus = visible_gpus() if execution.device != "cpu" else []
        count = min(worker_count(self.settings, len(gpus), self._most_per_gpu), len(feed.open))
        logs = self.share.logs or self.sweep_jobs.sweep.folder / "logs"
        with (
            mps.shared(gpus if self._most_per_gpu > 1 else [], self.watcher.say) as of_gpu,
            _sigterm_like_ctrl_c(),
        ):
            pool = Pool(count, execution.threads, gpus, logs, gpu="machine" if gpus else None, of_gpu=of_gpu)
            self._workers = pool.workers
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
        if not self.report.stopped:
            self.report.dropped = sorted(feed.open.keys() & feed.dropped - feed.cancelled)
            over = self.report.failed.keys() | feed.cancelled | feed.dropped
            left = (planned_job for job, planned_job in feed.open.items() if job not in over)
            self.report.blocked = sorted(e.job.id for e in left if not self.sweep_jobs.finished(e))
        return self.report

    def _step(self, pool: Pool) -> bool:
        """Dispatch, listen; False when nothing runs and nothing can start."""
        if self._cancels.is_due():
            self.feed.look_for_cancels()
        self._dispatch(pool)
        if not self.feed.in_hand and not self.feed.elsewhere and not self.feed.rest_s():
            self.feed.look_for_cancels()  # whoever was cancelled last is told apart from who is blocked
            self.feed.look_anew()
            return self.feed.next() is not None or self.feed.elsewhere > 0 or self.feed.reopen()
        if self.feed.in_hand or self.feed.rest_s():
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > self.share.patience_s:
            return False
        for worker, event in pool.events(POLL_S):
            self._handle(worker, event)
        watchdog_s = seconds_of(self.settings.watchdog_min)
        pool.end_hanging(watchdog_s, watchdog_s)
        self.watcher.tick(self.feed.elsewhere)
        return True

    @property
    def _most_per_gpu(self) -> int:
        return max((execution.per_gpu for execution in self._executions.values()), default=1)

    def _execution(self, planned_job: PlannedJob) -> Execution:
        return self._executions[planned_job.plan.rung_of(planned_job.job).name]

    def _dispatch(self, pool: Pool) -> None:
        """Hand out what can start, the most urgent first, where there is a place for it."""
        if not (free := pool.free()):
            return
        jobs = self.sweep_jobs.by_id
        places = Places(
            pool.workers, len(self._gpus), lambda job: self._execution(jobs[job]).per_gpu, self._most_per_gpu
        )
        for planned_job in self.feed.startable():
            worker = places.take(planned_job.job.id, free)
            if worker is not None:
                self._start(planned_job, worker)
                free.remove(worker)
            if not free or not places.left:
                return

    def _start(self, planned_job: PlannedJob, worker: Worker) -> None:
        dispatch = replace(self.share.dispatch, log=str(worker.log))
        try:
            manifest = self.sweep_jobs.manifest(planned_job, self._execution(planned_job), dispatch)
        except StorageError as error:
            self.feed.refused(planned_job, str(error))
            return
        if worker.give(manifest):
            self.feed.started(planned_job)
            self.watcher.started(planned_job, worker.number)

    def _handle(self, worker: Worker, event: Event | Died) -> None:
        match event:
            case Progress(job, step) if job not in self.feed.cancelled:
                self.watcher.progress(self.sweep_jobs.by_id[job], step)
            case Saved(job):
                self.feed.saved(job)
            case Ended(job, end, message):
                self.feed.ended(self.sweep_jobs.by_id[job], end, message)
                if end is End.INFRASTRUCTURE:  # what its process holds of the machine may be broken
                    worker.end(message)
            case Died() if worker.job is not None:
                planned_job = self.sweep_jobs.by_id[worker.job]
                self.feed.died(planned_job, worker.process.pid, event.reason, worker.log, worker.fault)
            case Died() if not worker.ready:
                self.feed.stillborn(worker.log)
            case _:
                pass

    def _decided(self, decision: Decision) -> None:
        """Keep what the feed says, and show it. Of a cancelled job nothing else counts."""
        job = decision.planned_job.job.id
        if job in self.feed.cancelled and decision.state is not State.CANCELLED:
            return
        match decision.state:
            case State.CANCELLED:
                self.report.cancelled.append(job)
                for worker in self._workers:
                    if worker.job == job:
                        worker.stop_job()
            case State.FAILED:
                self.report.failed[job] = decision.message
            case State.DONE | State.DIVERGED:
                self.report.finished.append(job)
                if decision.state is State.DIVERGED:
                    self.report.diverged.append(job)
            case _:
                pass
        self.watcher.ended(decision)


@contextlib.contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """A batch system's notice ends a launch like Ctrl-C, unless somebody listens to it already. Only a main
    thread may say so."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or callable(signal.getsignal(signal.SIGTERM)):
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def worker_count(config: LocalSettings, gpus: int, per_gpu: int | None = None) -> int:
    """Processes to run: as configured, else `per_gpu` a GPU, else the cores it may use / threads."""
    if config.workers is not None:
        return config.workers
    if gpus:
        return gpus * (per_gpu or config.execution.per_gpu)
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
