"""`--on batch`: a script that any scheduler can run as an array of tasks, PBS, LSF, Grid Engine or a cloud's.

A launch writes it and says how to submit it. Its tasks are all alike: each takes one job after another, the
most urgent that can start and nobody has, until nothing is left for it.

<sweep>/batch/HASH/
    script.json     what was ordered, and which rungs the script trains
    run.sh          the script: `bash run.sh` is a task too
    environment.sh  the variables of its jobs, for nobody else to read
    tasks/NAME/     the starts of the task of this name, kept as attempts are
    tasks/NAME/job  the job that it has in hand
    logs/           what the workers printed
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sweepctl.errors import DamagedFile, InvalidValue, RequestError, StorageError, SweepctlError
from sweepctl.launch.defaults import build_settings
from sweepctl.launch.doctor import Finding, Say, examine_machine
from sweepctl.launch.due import Due
from sweepctl.launch.feed import Decision
from sweepctl.launch.launcher import Launcher, LaunchRequest
from sweepctl.launch.local import LocalLaunch, LocalSettings, Share, Watcher, visible_gpus
from sweepctl.launch.order import Order
from sweepctl.launch.outcome import Submission, Submitted, ToSubmit
from sweepctl.launch.ownership import PRIVATE, READABLE, protected_folder
from sweepctl.launch.retries import Retries
from sweepctl.launch.retry import Retry
from sweepctl.launch.rungs import each_pattern, for_rung, idle_patterns
from sweepctl.launch.script_words import python_command
from sweepctl.launch.tasks import Task, TaskState
from sweepctl.launch.variables import check, exports, handed_on
from sweepctl.launch.workers import check_price, check_watchdog
from sweepctl.spec import hashing
from sweepctl.spec.build import build, plain
from sweepctl.spec.execution import Execution
from sweepctl.spec.peaks import check_gpu_memory
from sweepctl.store import attempts
from sweepctl.store.ends import End
from sweepctl.store.facts import Dispatch
from sweepctl.store.files import read_json, write_json, write_text
from sweepctl.store.job import JobFolder
from sweepctl.store.sweep_jobs import PlannedJob
from sweepctl.store.workspace import Sweep, Workspace

MODULE = "sweepctl.launch.backends.batch"
UNFINISHED = 99
"""The exit code of a task that saved with work left: Grid Engine puts it back into the queue, others can."""
BEAT_S = 30.0
"""Between two signs of life of a task that waits."""
NOTICES = (signal.SIGTERM, signal.SIGALRM)
"""By which a task is told to end: its scheduler's, and its own before the time limit."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What may differ between rungs: jobs with the same are trained by the same script."""

    header: tuple[str, ...]
    """The scheduler's own lines of the script."""
    time_min: float | None
    """The time limit of a task, where it should save ahead of it."""
    tasks: int | None
    """How many tasks to ask for; None: as many as jobs can start at once."""

    def __post_init__(self) -> None:
        for line in self.header:
            if "\n" in line or not line.startswith("#"):
                raise InvalidValue("header", line, "one line that begins with #, as schedulers read them")
        if self.time_min is not None and self.time_min <= 0:
            raise InvalidValue("time_min", self.time_min, "above 0, or null")
        if self.tasks is not None and self.tasks < 1:
            raise InvalidValue("tasks", self.tasks, "at least 1, or null")

    def __str__(self) -> str:
        limit = [] if self.time_min is None else [f"{self.time_min:g} min"]
        return ", ".join([*self.header, *limit]) or "as the scheduler gives"


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """A file of `launchers/` of this kind."""

    kind: Literal["batch"]
    """The launcher."""
    header: tuple[str, ...]
    """The scheduler's own lines of a script."""
    time_min: float | None
    """The time limit of a task, where it should save ahead of it."""
    tasks: int | None
    """How many tasks to ask for; None: as many as jobs can start at once."""
    rungs: dict[str, dict[str, Any]]
    """The three above for rungs by name or pattern."""
    setup: tuple[str, ...]
    """Lines of shell that every task runs first."""
    environment: dict[str, str | int | float | None]
    """Variables of the jobs; None: as it is where the script is written."""
    python: str | None
    """The interpreter where tasks run; None: the one that launches."""
    index: tuple[str, ...]
    """Variables that may hold a task's number, tried in this order before the script's first argument."""
    wait_min: float
    """How long a task waits for what other tasks train before it ends."""
    save_ahead_s: float
    """How long before the time limit a task saves and ends."""
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

    def __post_init__(self) -> None:
        check(self.environment)
        check_watchdog(self.watchdog_min)
        check_price(self.price_per_device_hour)
        check_gpu_memory(self.gpu_memory)
        for name in self.index:
            if not _VARIABLE.fullmatch(name):
                raise InvalidValue("index", name, "the name of a variable")
        for key in ("wait_min", "save_ahead_s"):
            if getattr(self, key) < 0:
                raise InvalidValue(key, getattr(self, key), "at least 0")
        for settings in (self.of_tasks, *each_pattern(self.of_tasks, self.rungs)):
            if settings.time_min is not None and self.save_ahead_s >= 60 * settings.time_min:
                limit = f"less than {60 * settings.time_min:g}, which is time_min={settings.time_min:g}"
                raise InvalidValue("save_ahead_s", self.save_ahead_s, limit)

    @property
    def of_tasks(self) -> TaskSettings:
        """Those of rungs that `rungs` says nothing of."""
        return TaskSettings(self.header, self.time_min, self.tasks)


@dataclass(frozen=True, slots=True)
class Script:
    """One script: what was ordered, and the part of it that its tasks train."""

    order: Order
    """What the launch asked for."""
    rungs: tuple[str, ...]
    """The rungs that it trains."""
    task: TaskSettings
    """What its tasks are like."""
    left_alone: dict[str, str] = field(default_factory=dict)
    """Failed jobs that are not taken up again, and what they died of."""
    forgiven: dict[str, int] = field(default_factory=dict)
    """Jobs whose attempts up to a number do not count against their retries."""

    @property
    def settings(self) -> BatchSettings:
        return build_settings(BatchSettings, self.order.launcher)

    def folder(self, sweep: Sweep) -> Path:
        """Asking for the same again gives the same script; of two users each has one."""
        return sweep.folder / "batch" / hashing.digest(f"{os.getuid()} {hashing.canonical(plain(self))}")[:10]

    def text(self, sweep: Sweep) -> str:
        settings, folder = self.settings, self.folder(sweep)
        command = f"{python_command(settings.python)} -u -P -m {MODULE}"
        names = " ".join(settings.environment)
        variables = f". {shlex.quote(str(folder / 'environment.sh'))}  # {names}"
        return "\n".join(
            [
                "#!/bin/bash",
                *self.task.header,
                f"# Trains {', '.join(self.rungs)} of {sweep.name}: any number of tasks, once or again.",
                'index="${1:-}"',
                f"for name in {' '.join(settings.index)}; do",
                '  case "${!name:-}" in "" | *[!0-9]*) ;; *) index="${!name}"; break ;; esac',
                "done",
                *([variables] if names else []),
                *settings.setup,
                f'exec {command} {shlex.quote(str(folder))} "$index"',
                "",
            ]
        )

    def write(self, sweep: Sweep, variables: Mapping[str, str]) -> None:
        """Put it into the sweep's folder, where nobody else can change it before it is submitted, nor read
        the values of its variables."""
        folder = protected_folder(self.folder(sweep))
        sources = [f"{name}={shlex.quote(text)}" for name, text in variables.items()]
        write_text(folder / "environment.sh", "\n".join([*sources, *exports(variables), ""]), PRIVATE)
        write_json(folder / "script.json", plain(self), READABLE)
        write_text(folder / "run.sh", self.text(sweep), READABLE)


ScriptWithJobs: TypeAlias = tuple[Script, list[PlannedJob]]
"""A script, and the jobs that are left in it."""


class BatchLauncher(Launcher[BatchSettings], kind="batch", settings=BatchSettings):
    """What the tasks did, the sweep's files say: who submits them is not asked."""

    def launch(self, request: LaunchRequest, watcher: Watcher) -> Submitted:
        variables = handed_on(self.settings.environment)
        request.begin()
        request.sweep_jobs.make_wishes(self.execution.keep)
        sweep = request.sweep_jobs.sweep
        scripts = self._scripts(request)
        for script, _ in scripts:
            script.write(sweep, variables)
        return Submitted(
            _submissions(sweep, scripts),
            queued=_in_training(scripts),
            exhausted=list(request.retry.left),
            idle_patterns=idle_patterns(self.settings.rungs, request.sweep_jobs.rungs),
        )

    def rehearse(self, request: LaunchRequest) -> ToSubmit:
        scripts = self._scripts(request)
        submissions = _submissions(request.sweep_jobs.sweep, scripts)
        return ToSubmit(submissions, _in_training(scripts), list(request.retry.left))

    def _scripts(self, request: LaunchRequest) -> list[ScriptWithJobs]:
        """A script for every class of rungs."""
        order, retry = Order.of(request, self.settings), request.retry
        classes: dict[TaskSettings, list[str]] = {}
        for rung in request.sweep_jobs.rungs:
            settings = for_rung(self.settings.of_tasks, self.settings.rungs, rung)
            classes.setdefault(settings, []).append(rung)
        left: dict[str, list[PlannedJob]] = {}
        for planned_job in request.sweep_jobs.unfinished():
            if planned_job.job.id not in retry.left:
                left.setdefault(planned_job.plan.rung_of(planned_job.job).name, []).append(planned_job)
        scripts: list[ScriptWithJobs] = []
        for settings, rungs in classes.items():
            if planned_jobs := [planned_job for rung in rungs for planned_job in left.get(rung, [])]:
                script = Script(order, tuple(rungs), settings, retry.left, retry.forgiven)
                scripts.append((script, planned_jobs))
        return scripts

    def examine(self, workspace: Workspace, say: Say, job: bool, wait_min: float) -> Iterator[Finding]:
        yield from examine_machine(workspace, self.execution)
        yield Finding("job", "skipped", "nothing is known of the compute nodes: run this in a job there")

    @classmethod
    def tasks(cls, sweep: Sweep) -> Mapping[str, list[Task]]:
        """The jobs that tasks have in hand; what waits in a queue is not known here."""
        tasks: dict[str, list[Task]] = {}
        for folder in sorted((sweep.folder / "batch").glob("*/tasks/*")):
            start = attempts.newest(JobFolder(folder, folder.name))
            jobs = _read(folder / "job").split()
            if start is not None and jobs:
                state, word = TaskState.ENDED, "ended"
                if not start.ended and start.alive():
                    state, word = TaskState.RUNNING, "started"
                for job in jobs:
                    tasks.setdefault(job, []).append(Task(folder.name, state, word))
        return tasks


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _in_training(scripts: list[ScriptWithJobs]) -> int:
    jobs = [planned_job for _, planned_jobs in scripts for planned_job in planned_jobs]
    return sum(attempts.owned(planned_job.folder) for planned_job in jobs)


def _submissions(sweep: Sweep, scripts: list[ScriptWithJobs]) -> list[Submission]:
    return [_submission(sweep, script, planned_jobs) for script, planned_jobs in scripts]


def _submission(sweep: Sweep, script: Script, planned_jobs: list[PlannedJob]) -> Submission:
    path = script.folder(sweep) / "run.sh"
    startable = sum(planned_job.trunk is None for planned_job in planned_jobs) or len(planned_jobs)
    tasks = script.task.tasks or startable
    jobs = tuple(planned_job.job.id for planned_job in planned_jobs)
    return Submission(
        id=str(path),
        jobs=jobs,
        place=str(script.task),
        resources=plain(script.task),
        script=script.text(sweep),
        by_hand=submit_commands(path, f"sweepctl-{sweep.name}", tasks),
    )


def submit_commands(path: Path, name: str, tasks: int) -> tuple[str, ...]:
    """How common schedulers are given so many tasks of a script."""
    script, name = shlex.quote(str(path)), shlex.quote(name)
    array = f"-J 0-{tasks - 1} " if tasks > 1 else ""  # PBS knows no array of one
    return (
        f"PBS:          qsub {array}{script}",
        f"LSF:          bsub -J '{name}[1-{tasks}]' < {script}",
        f"Grid Engine:  qsub -S /bin/bash -t 1-{tasks} {script}",
        f"Slurm:        sbatch --array=0-{tasks - 1} {script}",
        f"by hand:      bash {script}",
    )


# In a task


class TaskLog:
    """Says in a task's log what happens, and beside its record which jobs it has in hand."""

    def __init__(self, start: attempts.Attempt) -> None:
        self.start = start
        self._in_hand: set[str] = set()
        self._beat = Due(BEAT_S)

    def take_in_hand(self, jobs: set[str]) -> None:
        """Only `status` asks for it: nothing ends where it cannot be written."""
        self._in_hand = jobs
        with contextlib.suppress(StorageError):
            write_text(self.start.path.parents[1] / "job", "\n".join(sorted(jobs)))

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def started(self, planned_job: PlannedJob, worker: int) -> None:
        self.say(f"{planned_job.name} {planned_job.job.id}")
        self.take_in_hand(self._in_hand | {planned_job.job.id})

    def progress(self, planned_job: PlannedJob, step: int) -> None: ...

    def ended(self, decision: Decision) -> None:
        self.say(f"{decision.planned_job.name} {decision.planned_job.job.id}: {decision.words}")
        self.take_in_hand(self._in_hand - {decision.planned_job.job.id})

    def tick(self, elsewhere: int) -> None:
        if self._beat.is_due():
            self.start.beat(0, 0)


def _read_script(path: Path) -> Script:
    try:
        return build(Script, read_json(path))
    except FileNotFoundError:
        raise DamagedFile(f"{path} is missing.") from None
    except RequestError as error:
        raise DamagedFile(f"{path} is damaged: {error}") from None


def run_task(folder: Path, index: str) -> int:
    """Train until nothing is left for this task, its time is up or it is told to end; the exit code."""
    sweep = Workspace(folder.parents[2]).sweep(folder.parents[1].name)
    script = _read_script(folder / "script.json")
    settings = script.settings
    name = index or f"{socket.gethostname()}-{os.getpid()}"
    for number in NOTICES:
        signal.signal(number, _told_to_end)
    start = _begin(folder, name)
    if script.task.time_min is not None:
        signal.setitimer(signal.ITIMER_REAL, 60 * script.task.time_min - settings.save_ahead_s)
    share = Share(
        rungs=frozenset(script.rungs),
        dispatch=Dispatch(launcher="batch", array=folder.name, submitted_code=script.order.code),
        logs=folder / "logs",
        patience_s=60 * settings.wait_min,
    )
    shared = settings.execution.device != "cpu" and settings.execution.per_gpu > 1 and visible_gpus()
    workers = settings.execution.per_gpu if shared else 1
    pool = LocalSettings(
        "local", workers, settings.watchdog_min, settings.retries, settings.execution, None, None, {}
    )
    log = TaskLog(start)
    log.take_in_hand(set())
    retry = Retry(forgiven=script.forgiven, left=script.left_alone)
    report = LocalLaunch(script.order.sweep_jobs(sweep), pool, log, retry, share).run()
    start.end(End.STOPPED if report.stopped else End.DONE)
    log.say("saved, with work left" if report.stopped else "nothing left for this task")
    log.take_in_hand(set())
    return UNFINISHED if report.stopped else int(bool(report.failed.keys() - script.left_alone.keys()))


def _told_to_end(*_: object) -> None:
    """Save and end. The notice after it is not a second Ctrl-C, which would throw the save away."""
    for number in NOTICES:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _begin(folder: Path, name: str) -> attempts.Attempt:
    """Say that the task has started; a number that lives elsewhere gets another name."""
    tasks = folder / "tasks"
    start = attempts.claim(JobFolder(tasks / name, name), {"launcher": "batch"})
    if start is None:
        return _begin(folder, f"{name}-{socket.gethostname()}-{os.getpid()}")
    return start


if __name__ == "__main__":
    try:
        raise SystemExit(run_task(Path(sys.argv[1]), sys.argv[2]))
    except KeyboardInterrupt:
        raise SystemExit(UNFINISHED) from None
    except SweepctlError as error:
        print(f"sweepctl: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
