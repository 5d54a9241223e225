"""A pool of local worker processes that take one job after another: torch is imported once a worker."""

from __future__ import annotations

import contextlib
import math
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Literal

from sweepctl.errors import InvalidValue, StorageError
from sweepctl.launch.ownership import append_to
from sweepctl.store.files import storage
from sweepctl.store.manifest import Manifest
from sweepctl.store.protocol import (
    GPU_VARIABLE,
    WORKERS_VARIABLE,
    Died,
    Ended,
    Event,
    Ready,
    RunJob,
    StopJob,
    read_event,
)

SAFE_PATH = ("-P",)
"""Of an interpreter: without the current folder on Python's path, where anybody may have put a module."""
GROUP_VARIABLES = (
    r"TORCHELASTIC_.*|MASTER_(ADDR|PORT)|(LOCAL_|GROUP_|ROLE_|NODE_)?(RANK|WORLD_SIZE)|PMI.?_.*|PMIX_.*"
)
"""What torchrun, MPI or an allocation tells the processes of one group, and leaves behind in a shell."""
Gpu = Literal["allocation", "machine"]
"""Who says that a worker has a GPU: what was asked of a scheduler, or the machine."""
UNKILLABLE_S = 30.0
"""How long one waits for the end of a process that was killed."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(slots=True)
class Worker:
    """One process."""

    number: int
    """Its place in the pool."""
    process: subprocess.Popen[str]
    """The process."""
    log: Path
    """What it writes to."""
    job: str | None = None
    """What it was last handed; None while it is free."""
    ready: bool = False
    """Whether it has begun to listen."""
    fault: str | None = None
    """Why it is being ended, where its launcher does that."""
    heard_at: float = field(default_factory=time.monotonic)
    """When it last said something, or was given a job."""
    stopping_since: float | None = None
    """When it was asked to give its job up."""
    _rest: str = field(default="")

    @property
    def input(self) -> IO[str]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def output(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def give(self, manifest: Manifest) -> bool:
        """Hand it a job; False where the process is gone."""
        if self._tell(RunJob(manifest)):
            self.job = manifest.job
            self.heard_at, self.stopping_since = time.monotonic(), None
        return self.job is not None

    def has_said(self, event: Event) -> None:
        """Keep in mind what follows from it for the next job."""
        self.heard_at = time.monotonic()
        if isinstance(event, Ready):
            self.ready = True
        if isinstance(event, Ended):
            self.job = None

    def stop_job(self) -> None:
        """Ask it to save and give up its current job."""
        if self.job is not None:
            self.stopping_since = self.stopping_since or time.monotonic()
            self._tell(StopJob(self.job))

    def hangs(self, silent_s: float, stop_s: float) -> str | None:
        """What is wrong where it has said nothing for so long, or was asked to stop so long ago."""
        now = time.monotonic()
        if self.job is None or self.fault is not None:
            return None
        if now - self.heard_at > silent_s:
            return f"no sign of life from its process for {(now - self.heard_at) / 60:.3g} min"
        if self.stopping_since is not None and now - self.stopping_since > stop_s:
            return f"its process did not stop within {stop_s:.0f} s"
        return None

    @property
    def is_stuck(self) -> bool:
        """Whether it was killed and does not die: something in the machine holds it."""
        return self.fault is not None and time.monotonic() - self.heard_at > UNKILLABLE_S

    def end(self, fault: str) -> None:
        """End its process, and what that has started, without asking."""
        self.fault, self.heard_at = fault, time.monotonic()
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _tell(self, command: RunJob | StopJob) -> bool:
        try:
            self.input.write(command.line() + "\n")
            self.input.flush()
        except OSError:
            return False
        return True


class Pool:
    """`count` workers of `threads` threads each, with a GPU of its own each where `gpus` says so. What they
    print goes into files of their own below `logs`, or all into `log`. Each trains alone but for those of a
    `group`, which say with this process's variables who trains a job together. `gpu` says who has promised
    them one, `of_gpu` which variables those on a GPU have besides."""

    def __init__(
        self,
        count: int,
        threads: int,
        gpus: list[str],
        logs: Path,
        log: Path | None = None,
        group: bool = False,
        gpu: Gpu | None = None,
        of_gpu: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        with storage(logs):
            logs.mkdir(parents=True, exist_ok=True)
        self._threads, self._gpus, self._logs, self._log = threads, gpus, logs, log
        self._group, self._gpu, self._of_gpu, self._count = group, gpu, of_gpu, count
        self._faults: Counter[int] = Counter()
        self._selector = selectors.DefaultSelector()
        self.workers = [self._start(number) for number in range(count)]

    def _start(self, number: int) -> Worker:
        log = self._log or self._logs / f"local-{os.getpid()}-{number}.log"
        gpu = self._gpus[number % len(self._gpus)] if self._gpus else None
        environment = worker_environment(self._threads, self._gpu)
        if not self._group:
            environment = without(environment, GROUP_VARIABLES)
        if gpu is not None:
            environment |= {"CUDA_VISIBLE_DEVICES": gpu, **self._of_gpu.get(gpu, {})}
        environment[WORKERS_VARIABLE] = str(self._count)
        with _log(log) as errors:
            # Ctrl-C reaches the launcher, which then asks the workers to stop.
            process = worker_process(environment, errors, start_new_session=True)
        worker = Worker(number, process, log)
        os.set_blocking(worker.output.fileno(), False)
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        return worker

    def free(self) -> list[Worker]:
        """Workers that wait for a job, those in whose place nothing went wrong first."""
        free = [worker for worker in self.workers if worker.job is None and worker.fault is None]
        return sorted(free, key=lambda worker: self._faults[worker.number])

    def end_hanging(self, silent_s: float, stop_s: float) -> None:
        """End workers that hang; `events` then says that they died, and of what."""
        for worker in self.workers:
            if (fault := worker.hangs(silent_s, stop_s)) is not None:
                worker.end(fault)

    def events(self, timeout_s: float) -> Iterator[tuple[Worker, Event | Died]]:
        """What workers said within the timeout. One that died is replaced by a fresh one."""
        for chosen, _ in self._selector.select(timeout_s):
            worker: Worker = chosen.data
            chunk = os.read(worker.output.fileno(), 1 << 16).decode()
            *lines, worker._rest = (worker._rest + chunk).split("\n")
            for line in lines:
                if (event := read_event(line)) is not None:
                    worker.has_said(event)
                    yield worker, event
            if not chunk:
                self._selector.unregister(worker.output)
                code = worker.process.wait()
                self._close(worker)
                self._faults[worker.number] += worker.fault is not None
                self.workers[worker.number] = self._start(worker.number)
                yield worker, Died(code)

    def stop(self, patience_s: float = 120.0) -> None:
        """Ask every worker to save and end, wait, and end those that do not."""
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.process.terminate()
            with contextlib.suppress(OSError):
                worker.input.close()
        for worker in self.workers:
            try:
                worker.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):  # a machine's fault holds it: leave it
                    worker.process.wait(UNKILLABLE_S)
            self._close(worker)
        self._selector.close()

    def kill(self) -> None:
        """End every worker at once; their jobs resume from their last checkpoints."""
        for worker in self.workers:
            worker.process.kill()

    @staticmethod
    def _close(worker: Worker) -> None:
        for stream in (worker.input, worker.output):
            with contextlib.suppress(OSError):
                stream.close()


def _log(path: Path) -> IO[str]:
    """Where a worker prints to: nowhere, where the file system does not take it now."""
    try:
        return append_to(path)
    except StorageError:
        if path.is_symlink():
            raise
        return open(os.devnull, "a")


def worker_environment(threads: int, gpu: Gpu | None = None) -> dict[str, str]:
    """The environment of a worker process; `gpu` says who has promised it one."""
    environment = safe_path(os.environ) | dict.fromkeys(THREAD_VARIABLES, str(threads))
    return environment | ({GPU_VARIABLE: gpu} if gpu is not None else {})


def check_watchdog(watchdog_min: float | None) -> None:
    """Raises InvalidValue where a setting of a watchdog is no time."""
    if watchdog_min is not None and not watchdog_min > 0:
        raise InvalidValue("watchdog_min", watchdog_min, "above 0, or null")


def check_price(price_per_device_hour: float | None) -> None:
    """Raises InvalidValue where it is none."""
    if price_per_device_hour is not None and not price_per_device_hour >= 0:
        raise InvalidValue("price_per_device_hour", price_per_device_hour, "at least 0, or null")


def seconds_of(watchdog_min: float | None) -> float:
    """The patience of a watchdog."""
    return math.inf if watchdog_min is None else 60 * watchdog_min


def without(environment: Mapping[str, str], names: str) -> dict[str, str]:
    """An environment without the variables whose whole names match."""
    return {name: value for name, value in environment.items() if not re.fullmatch(names, name)}


def worker_process(
    environment: Mapping[str, str], errors: IO[Any], start_new_session: bool = False
) -> subprocess.Popen[str]:
    """A process that takes jobs on its input and tells of them on its output, a line of JSON each."""
    return subprocess.Popen(
        [sys.executable, *SAFE_PATH, "-m", "sweepctl.train.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment,
        start_new_session=start_new_session,
    )


def safe_path(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which no interpreter takes modules from the current folder."""
    return {**whole_path(environment), "PYTHONSAFEPATH": "1"}


def whole_path(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the empty parts of PYTHONPATH that a shell's `PYTHONPATH=$PYTHONPATH:...` leaves: they mean the
    current folder, where anybody may have put a module."""
    if "PYTHONPATH" not in environment:
        return dict(environment)
    parts = filter(None, environment["PYTHONPATH"].split(os.pathsep))
    return {**environment, "PYTHONPATH": os.pathsep.join(parts)}
