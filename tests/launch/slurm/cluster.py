"""A cluster in memory: it answers the one function that asks Slurm, and runs tasks in this process.

Nothing happens by itself here: a test says which task runs now, what befalls its worker, and whether the
controller answers.
"""

from __future__ import annotations

import itertools
import os
import queue
import re
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from sweepctl.launch.slurm import commands, supervisor, task
from sweepctl.launch.slurm.commands import SlurmError
from sweepctl.launch.slurm.submitit_executor import CommandExecutor
from sweepctl.store.manifest import Manifest
from sweepctl.store.protocol import Died, Ended, Event, Saved

AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
LIMIT = "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed"


@dataclass
class ArrayTask:
    """One task of an array, as the queue has it."""

    name: str
    """ARRAY_INDEX."""
    job_name: str
    folder: str
    """What its script exports as SWEEPCTL_ARRAY."""
    state: str = "PENDING"
    reason: str = "Priority"
    dependency: str = ""
    restart: int = 0
    variables: Mapping[str, str] = field(default_factory=dict)
    """What sbatch handed on."""

    @property
    def waits(self) -> bool:
        return self.state == "PENDING" and "Held" not in self.reason


class Killed(BaseException):
    """What ends a worker without a word."""


Fate = Callable[[Manifest, threading.Event, Callable[[Event], None]], Event]
"""What becomes of a job that a worker is given: the manifest, whether it is to stop, whom to tell."""


def train(manifest: Manifest, stop: threading.Event, report: Callable[[Event], None]) -> Event:
    """It is trained."""
    from sweepctl.train.job import run

    outcome = run(manifest, stop, report)
    return Ended(manifest.job, outcome.why, outcome.message)


def until_told(act: Callable[[], Any] = lambda: None) -> Fate:
    """It is trained up to its first checkpoint; then the test acts, and it goes on to the step at which it is
    told to stop."""

    def fate(manifest: Manifest, stop: threading.Event, report: Callable[[Event], None]) -> Event:
        acts = iter([act])

        def report_and_wait(event: Event) -> None:
            report(event)
            for once in acts if isinstance(event, Saved) else ():
                once()
                assert stop.wait(60), "nobody told the worker to stop"

        return train(manifest, stop, report_and_wait)

    return fate


def meets(error: BaseException) -> Fate:
    """It begins to train, and this is raised."""

    def fate(manifest: Manifest, stop: threading.Event, report: Callable[[Event], None]) -> Event:
        def fail(event: Event) -> None:
            raise error

        try:
            return train(manifest, stop, fail)
        except Killed:
            return Died(-signal.SIGKILL)

    return fate


def dies_at_once(manifest: Manifest, stop: threading.Event, report: Callable[[Event], None]) -> Event:
    """Its process ends before it has begun."""
    return Died(1)


class InProcess:
    """In a pool's place: workers whose jobs are run by threads of this process. Their first jobs meet
    `fates`, the others are trained."""

    fates: Iterator[Fate] = iter(())
    pools: ClassVar[list[InProcess]] = []
    """Those there were, the newest last."""

    def __init__(self, count: int, threads: int, gpus: list[str], *settings: Any, **more: Any) -> None:
        self.gpus = gpus
        self.heard: queue.SimpleQueue[tuple[InThread, Event]] = queue.SimpleQueue()
        self.workers = [InThread(self, number) for number in range(count)]
        self.pools.append(self)

    def free(self) -> list[InThread]:
        return [worker for worker in self.workers if worker.job is None]

    def end_hanging(self, silent_s: float, stop_s: float) -> None:
        """Nobody hangs here."""

    def events(self, timeout_s: float) -> Iterator[tuple[InThread, Event]]:
        try:
            worker, event = self.heard.get(timeout=timeout_s)
        except queue.Empty:
            return
        worker.job = None if isinstance(event, Ended) else worker.job
        yield worker, event
        worker.job = None if isinstance(event, Died) else worker.job

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()


class InThread:
    """A worker of it."""

    def __init__(self, pool: InProcess, number: int) -> None:
        self.pool, self.number, self.job = pool, number, None
        self.fault, self.is_stuck, self.stopping_since = None, False, None
        self.process, self.log = SimpleNamespace(pid=os.getpid()), Path("log")
        self._stop = threading.Event()
        self._thread = threading.Thread()

    def give(self, manifest: Manifest) -> bool:
        fate = next(type(self.pool).fates, train)
        self.job, self.stopping_since = manifest.job, None
        self._stop.clear()
        self._thread = threading.Thread(
            target=lambda: self._say(fate(manifest, self._stop, self._say)),
        )
        self._thread.start()
        return True

    def _say(self, event: Event) -> None:
        self.pool.heard.put((self, event))

    def stop_job(self) -> None:
        self.stopping_since = time.monotonic()
        self._stop.set()

    def end(self, fault: str) -> None:
        """It is another from now on."""

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(60)


@dataclass
class Cluster:
    """Its queue, its configuration, and what is wrong with it."""

    monkeypatch: pytest.MonkeyPatch
    config: dict[str, str] = field(default_factory=lambda: {"ClusterName": "memory"})
    tasks: dict[str, ArrayTask] = field(default_factory=dict)
    accounting: dict[str, str] = field(default_factory=dict)
    """Task -> how it ended."""
    associations: str | None = None
    """What `scontrol show assoc_mgr` says; None where there is no accounting."""
    takes: int | None = None
    """How many tasks the queue takes before it refuses."""
    refusal: str = ""
    """Why sbatch refuses everything."""
    away: int = 0
    """How many questions the controller leaves unanswered from now on."""
    sbatch_killed: str = ""
    """Where whoever calls sbatch dies: before it is asked, or after it has taken the job."""
    questions: list[tuple[str, ...]] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    """Tasks that it does not let this user touch."""
    scripts: list[str] = field(default_factory=list)
    """What sbatch was given."""
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(101))

    def waiting(self) -> list[str]:
        """Tasks that may run now."""
        return [name for name, queued in self.tasks.items() if queued.waits]

    def held(self) -> list[str]:
        return [name for name, queued in self.tasks.items() if "Held" in queued.reason]

    # What Slurm's commands do

    def ask(self, *command: str, **how: Any) -> str:
        """In the place of `commands.ask`."""
        self.questions.append(command)
        if self.away:
            self.away -= 1
            raise SlurmError(AWAY)
        match command:
            case ("scontrol", "show", "config"):
                return "\n".join(f"{key:<24}= {value}" for key, value in self.config.items())
            case ("scontrol", "-o", "show", "assoc_mgr", *_):
                if self.associations is None:
                    raise SlurmError("scontrol: slurm_load_assoc_mgr_info error: no accounting")
                return self.associations
            case ("scontrol", "release", names):
                for name in names.split(","):
                    if name in self.tasks and name not in self.refuses:
                        self.tasks[name].reason = "Priority"
                self._refuse(names.split(","))
            case ("scontrol", "requeue", name):
                self.requeue(name)
            case ("scancel", *names):
                for name in set(names) - self.refuses:
                    self._drop(name, "CANCELLED")
                self._refuse(names)
            case ("squeue", *options):
                return self._squeue(options)
            case ("sacct", *options):
                asked = options[-1].split(",")
                return "\n".join(f"{name}|{end}" for name, end in self.accounting.items() if name in asked)
            case _:
                raise AssertionError(f"nobody has said what Slurm answers to {command}")
        return ""

    def _refuse(self, names: list[str]) -> None:
        """As Slurm does where one of several tasks may not be touched: the others are."""
        for name in names:
            if name in self.refuses:
                raise SlurmError(f"scancel: error: Kill job error on job id {name}: Access/permission denied")

    def _squeue(self, options: list[str]) -> str:
        pattern = options[options.index("-o") + 1]
        names = list(self.tasks)
        if "-j" in options:
            arrays = options[options.index("-j") + 1].split(",")
            names = [name for name in names if {name, name.partition("_")[0]} & {*arrays}]
            if not names and len(arrays) == 1:
                raise SlurmError("squeue: slurm_load_jobs error: Invalid job id specified")
        if "--name" in options:
            wanted = options[options.index("--name") + 1]
            names = [name for name in names if self.tasks[name].job_name == wanted]
        lines = []
        for name in names:
            queued = self.tasks[name]
            said = {"%i": name, "%T": queued.state, "%r": queued.reason, "%j": queued.job_name}
            lines.append(re.sub("%[iTrj]", lambda match: said[match[0]], pattern))  # noqa: B023
        return "\n".join(lines)

    def sbatch(self, script: str, variables: Mapping[str, str]) -> str:
        """Take a script, and queue the tasks of its array; the array's id."""
        self.questions.append(("sbatch",))
        self.scripts.append(script)
        if self.sbatch_killed == "before":
            raise Killed
        options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.MULTILINE))
        last = int(options["array"].partition("-")[2].partition("%")[0])
        if self.refusal or (self.takes is not None and len(self.tasks) + last + 1 > self.takes):
            raise SlurmError(commands.sentence(self.refusal or LIMIT))
        array_id = str(next(self._ids))
        folder = re.search(r"^export SWEEPCTL_ARRAY=(.*)$", script, re.MULTILINE)
        assert folder is not None
        for index in range(last + 1):
            self.tasks[f"{array_id}_{index}"] = ArrayTask(
                f"{array_id}_{index}",
                shlex.split(options["job-name"])[0],
                shlex.split(folder[1])[0],
                reason="JobHeldUser" if "hold" in options else "Priority",
                dependency=options.get("dependency", ""),
                variables=variables,
            )
        if self.sbatch_killed == "after":
            raise Killed
        return array_id

    def requeue(self, name: str) -> None:
        """Put a task back into the queue; its process is told."""
        queued = self.tasks[name]
        queued.state, queued.reason, queued.restart = "PENDING", "BeginTime", queued.restart + 1

    def _drop(self, name: str, end: str) -> None:
        if self.tasks.pop(name, None) is not None:
            self.accounting[name] = end

    # Tasks at work

    def run(self, name: str, *fates: Fate, minutes: float = 60.0) -> int:
        """Run a task to its end, as Slurm would; the exit code of its process. `fates`: of its first jobs."""
        queued = self.tasks[name]
        queued.state, queued.reason = "RUNNING", "None"
        array_id, _, index = name.partition("_")
        places = {
            **queued.variables,
            "SWEEPCTL_ARRAY": queued.folder,
            "SLURM_ARRAY_JOB_ID": array_id,
            "SLURM_JOB_ID": array_id,
            "SLURM_ARRAY_TASK_ID": index,
            "SLURM_RESTART_COUNT": str(queued.restart),
            "SUBMITIT_EXECUTOR": "slurm",
            "SLURM_NTASKS": "1",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": "0",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_JOB_NODELIST": "node1",
            "SLURM_JOB_END_TIME": str(time.time() + 60 * minutes),
        }
        handler = signal.getsignal(signal.SIGTERM)
        with self.monkeypatch.context() as patch:
            for variable, value in places.items():
                patch.setenv(variable, value)
            patch.setattr(supervisor, "Pool", InProcess)
            patch.setattr(InProcess, "fates", iter(fates))
            try:
                code = task.main()
            finally:
                signal.signal(signal.SIGTERM, handler)
        if queued.restart == int(places["SLURM_RESTART_COUNT"]):
            self._drop(name, "FAILED" if code else "COMPLETED")
        return code

    def run_all(self) -> None:
        """Run whatever may run, one after another, until nothing waits."""
        while waiting := self.waiting():
            self.run(waiting[0])


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster that answers in the place of Slurm's commands."""
    cluster = Cluster(monkeypatch)
    monkeypatch.setattr(commands, "ask", cluster.ask)
    monkeypatch.setattr(
        CommandExecutor,
        "submit_command",
        lambda executor, command, variables: cluster.sbatch(executor.script(command), variables),
    )
    # A task that is to be requeued stays until Slurm ends it: here nobody does.
    monkeypatch.setattr(supervisor, "LINGER_S", 0.01)
    return cluster
