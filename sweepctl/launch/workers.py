"""A pool of local worker processes that take one job after another: torch is imported once a worker."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sweepctl.errors import StorageError
from sweepctl.launch.ownership import append_to
from sweepctl.store.files import storage
from sweepctl.store.manifest import Manifest
from sweepctl.store.protocol import Died, Ended, Event, Ready, RunJob, StopJob, read_event

SAFE_PATH = ("-P",)
"""Of an interpreter: without the current folder on Python's path, where anybody may have put a module."""
GROUP_VARIABLES = (
    r"TORCHELASTIC_.*|MASTER_(ADDR|PORT)|(LOCAL_|GROUP_|ROLE_|NODE_)?(RANK|WORLD_SIZE)|PMI.?_.*|PMIX_.*"
)
"""What torchrun, MPI or an allocation tells the processes of one group, and leaves behind in a shell."""
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
        return self.job is not None

    def has_said(self, event: Event) -> None:
        """Keep in mind what follows from it for the next job."""
        if isinstance(event, Ready):
            self.ready = True
        if isinstance(event, Ended):
            self.job = None

    def stop_job(self) -> None:
        """Ask it to save and give up its current job."""
        if self.job is not None:
            self._tell(StopJob(self.job))

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
    `group`, which say with this process's variables who trains a job together."""

    def __init__(
        self,
        count: int,
        threads: int,
        gpus: list[str],
        logs: Path,
        log: Path | None = None,
        group: bool = False,
    ) -> None:
        with storage(logs):
            logs.mkdir(parents=True, exist_ok=True)
        self._threads, self._gpus, self._logs, self._log = threads, gpus, logs, log
        self._group = group
        self._selector = selectors.DefaultSelector()
        self.workers = [self._start(number) for number in range(count)]

    def _start(self, number: int) -> Worker:
        log = self._log or self._logs / f"local-{os.getpid()}-{number}.log"
        gpu = self._gpus[number % len(self._gpus)] if self._gpus else None
        environment = worker_environment(self._threads)
        if not self._group:
            environment = without(environment, GROUP_VARIABLES)
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with _log(log) as errors:
            process = subprocess.Popen(
                [sys.executable, *SAFE_PATH, "-m", "sweepctl.train.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the launcher, which then asks the workers to stop
            )
        worker = Worker(number, process, log)
        os.set_blocking(worker.output.fileno(), False)
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        return worker

    def free(self) -> list[Worker]:
        """Workers that wait for a job."""
        return [worker for worker in self.workers if worker.job is None]

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
                worker.process.wait()
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


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of a worker process."""
    return safe_path(os.environ) | dict.fromkeys(THREAD_VARIABLES, str(threads))


def without(environment: Mapping[str, str], names: str) -> dict[str, str]:
    """An environment without the variables whose whole names match."""
    return {name: value for name, value in environment.items() if not re.fullmatch(names, name)}


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
