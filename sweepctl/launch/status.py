"""Where a sweep stands: from files, and where a batch system runs it, from what its queue says."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sweepctl.launch.launcher import Launcher, SchedulerError, launchers_of
from sweepctl.launch.queue_memory import QueueMemory
from sweepctl.launch.speed import Running, last_sign, mean_speed, running, time_left
from sweepctl.launch.tasks import Task, furthest, with_task
from sweepctl.store import attempts, metrics
from sweepctl.store.attempts import Attempt
from sweepctl.store.clock import file_system_time
from sweepctl.store.ends import End
from sweepctl.store.facts import Facts
from sweepctl.store.state import JobFilesCache, JobState, State
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs, of_older_plans
from sweepctl.store.throughput import Speeds
from sweepctl.store.workspace import Sweep

ORDER = tuple(State)
ASKED = 200
"""Jobs of one sweep whose task's end a scheduler is asked about."""
KINDS = ("trunk", "branch", "run")
GPU_NAMES = ("NVIDIA", "Tesla", "GeForce", "Instinct", "Radeon")
"""In names of devices on records of older versions, which do not say the kind."""


@dataclass(slots=True)
class RungStatus:
    """One rung of one stage."""

    stage: str
    """The stage's name."""
    rung: str
    """The rung's name."""
    states: Counter[str] = field(default_factory=Counter)
    """Jobs by state."""
    flops_done: float = 0.0
    """Exact training FLOPs that are done."""
    flops: float = 0.0
    """Exact training FLOPs that are wanted."""

    @property
    def complete(self) -> bool:
        return self.states[State.DONE] + self.states[State.DIVERGED] == self.states.total()


@dataclass(slots=True)
class KindStatus:
    """Trunks, branches or runs."""

    states: Counter[str] = field(default_factory=Counter)
    """Jobs by state."""
    failures: Counter[End] = field(default_factory=Counter)
    """The failed ones by class."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something to look at."""

    planned_job: PlannedJob
    """The job."""
    what: Literal["failed", "silent"]
    """It failed, or runs and says nothing."""
    failure: End | None
    """The class of a failure."""
    line: str
    """The last line of its error, else of its process's log."""
    silent_s: float | None = None
    """How long it has said nothing."""
    waiting: int = 0
    """How many branches wait for it."""


@dataclass(slots=True)
class SweepStatus:
    """The sweep. A diverged job has nothing left to train, so that it counts as trained."""

    name: str
    """The sweep's."""
    waiting_stages: list[str]
    """Stages that cannot be planned before others have results."""
    rungs: list[RungStatus] = field(default_factory=list)
    """Rung by rung, a line for every stage."""
    kinds: dict[str, KindStatus] = field(default_factory=dict)
    """By trunks, branches and runs."""
    jobs: list[tuple[PlannedJob, JobState]] = field(default_factory=list)
    """Every job and where it stands."""
    queue: Mapping[str, Task] = field(default_factory=dict)
    """Job -> the scheduler's task that is meant for it."""
    running: list[Running] = field(default_factory=list)
    """Attempts that may be running."""
    killed: dict[int, Facts] = field(default_factory=dict)
    """Place in `jobs` -> the attempt of one that was interrupted without a word."""
    problems: list[Problem] = field(default_factory=list)
    """What is wrong."""
    tokens_done: int = 0
    """Tokens that were trained on."""
    tokens: int = 0
    """Tokens that are wanted."""
    train_s: float = 0.0
    """Seconds of training that attempts recorded."""
    spent_s: float = 0.0
    """Device time, also of those that run or were killed."""
    left_s: float | None = None
    """Device time that is left; None where no speed is known."""
    eta_s: float | None = None
    """Seconds until all is there; None where no speed is known."""
    on_gpus: bool = False
    """Whether GPUs were used."""
    other_code: int = 0
    """Jobs that were trained by other code than they were submitted with."""
    set_aside: list[Path] = field(default_factory=list)
    """Checkpoints that were damaged."""
    older: list[PlannedJob] = field(default_factory=list)
    """Jobs of older plans that no current plan wants and that may still be trained."""
    notes: list[str] = field(default_factory=list)
    """Sentences worth showing."""

    def in_state(self, *states: str) -> list[tuple[PlannedJob, JobState]]:
        return [(planned_job, state) for planned_job, state in self.jobs if state.state in states]

    @property
    def complete(self) -> bool:
        return all(state.state.is_final for _, state in self.jobs)


def status(sweep_jobs: SweepJobs, queue: Mapping[str, Task] | None = None) -> SweepStatus:
    """Every job's state, and their sums. Writes nothing.

    `queue` has, by job id, the scheduler's task that is meant for a job.
    """
    reader = _Reader(sweep_jobs, queue or {})
    for planned_job in sweep_jobs.by_id.values():
        reader.read(planned_job)
    return reader.sums()


def full_status(sweep_jobs: SweepJobs, memory: QueueMemory | None = None) -> SweepStatus:
    """The same, with what the schedulers say that have tasks of the sweep. Changes nothing; where one does
    not answer, the files alone speak, and it says so. Who looks often hands in what it remembers."""
    memory = memory or QueueMemory()
    tasks: dict[str, list[Task]] = {}
    notes = []
    launchers = launchers_of(sweep_jobs.sweep)
    for launcher in launchers:
        try:
            for job, of_job in memory.tasks(launcher, sweep_jobs.sweep).items():
                tasks.setdefault(job, []).extend(of_job)
        except SchedulerError as error:
            scheduler = launcher.kind.capitalize()
            notes.append(f"{scheduler} does not answer, so this is from files alone. {error}")
        notes += launcher.notes(sweep_jobs.sweep)
    sweep = status(sweep_jobs, {job: furthest(of_job) for job, of_job in tasks.items()})
    for launcher in launchers:
        notes += _tell_ends(sweep, launcher, memory)
    if idle := _idle_tasks(sweep_jobs, sweep, tasks):
        names = " ".join(idle[:8]) + (" ..." if len(idle) > 8 else "")
        notes.append(
            f"{len(idle)} tasks wait with nothing left to do ({names}): a launch or cancel ends them."
        )
    sweep.older = still_trained(of_older_plans(sweep_jobs.sweep))
    if sweep.older:
        notes.append(_of_older_plans(sweep))
    if sweep.set_aside:
        notes.append(
            f"Damaged and set aside: {len(sweep.set_aside)} of the checkpoints, such as "
            f"{sweep.set_aside[0]}; `sweepctl clean` deletes them."
        )
    if sweep.other_code:
        notes.append(f"{sweep.other_code} jobs were trained by other code than they were submitted with.")
    sweep.notes = notes
    return sweep


def _idle_tasks(sweep_jobs: SweepJobs, sweep: SweepStatus, tasks: Mapping[str, list[Task]]) -> list[str]:
    """Tasks in a queue whose jobs are over, or which no plan wants."""
    unfinished = {planned_job.job.id for planned_job, state in sweep.jobs if not state.state.is_final}
    other = tasks.keys() - unfinished
    if other - sweep_jobs.by_id.keys():  # of stages that wait, or of an older plan
        other -= sweep_jobs.sweep.job_ids() - sweep_jobs.by_id.keys()
    return [
        task.name + (f" ({task.owner}'s)" if task.owner else "")
        for job in sorted(other)
        for task in tasks[job]
        if task.pending
    ]


def still_trained(sweep_jobs: SweepJobs) -> list[PlannedJob]:
    """Those that a process may be training."""
    workspace = sweep_jobs.sweep.workspace
    return [e for e in sweep_jobs.by_id.values() if workspace.has_job(e.job.id) and attempts.owned(e.folder)]


def _of_older_plans(sweep: SweepStatus) -> str:
    names = "; ".join(f"{e.job.id} {e.name}" for e in sweep.older[:3])
    more = f" and {len(sweep.older) - 3} more" if len(sweep.older) > 3 else ""
    return (
        f"{len(sweep.older)} jobs that no plan wants any more are still trained ({names}{more}); "
        f"`sweepctl cancel {sweep.name}` stops them."
    )


def stillborn_log(sweep: Sweep, job: str) -> Path | None:
    """What a task printed that ended before it could begin the job, which nobody has begun since."""
    logs = (launcher.stillborn_log(sweep, job) for launcher in launchers_of(sweep))
    return next(filter(None, logs), None)


def _tell_ends(sweep: SweepStatus, launcher: type[Launcher[Any]], memory: QueueMemory) -> list[str]:
    """Put the scheduler's word on jobs whose task ended without one of its own; what is to be said of it."""
    tasks = [
        (place, facts.scheduler_id)
        for place, facts in sweep.killed.items()
        if facts.launcher == launcher.kind and facts.scheduler_id is not None
    ][:ASKED]
    ends = memory.ended_as(launcher, (task for _, task in tasks))
    for place, task in tasks:
        if task in ends:
            planned_job, state = sweep.jobs[place]
            note = f"task {task} ended as {ends[task]}; {state.note}"
            sweep.jobs[place] = (planned_job, dataclasses.replace(state, note=note))
    words = Counter(ends[task] for _, task in tasks if task in ends)
    counted = ", ".join(f"{number} {word}" for word, number in words.most_common())
    scheduler = launcher.kind.capitalize()
    return [f"Ended without a word of their own, as {scheduler} has it: {counted}."] if words else []


class _Reader:
    """Reads one job after another, every file once."""

    def __init__(self, sweep_jobs: SweepJobs, queue: Mapping[str, Task]) -> None:
        self.sweep_jobs, self.queue = sweep_jobs, queue
        self.cache = JobFilesCache()
        self.speeds = Speeds(sweep_jobs.plans)
        self.cancelled = sweep_jobs.sweep.cancelled()
        self.sweep = SweepStatus(sweep_jobs.sweep.name, sweep_jobs.sweep.waiting_stages(), queue=queue)
        self._left: list[tuple[PlannedJob, JobState, float]] = []
        self._rungs: dict[tuple[str, str], RungStatus] = {}

    @cached_property
    def now(self) -> float:
        """By the clock that stamps heartbeats."""
        return file_system_time(self.sweep_jobs.sweep.folder)

    def read(self, planned_job: PlannedJob) -> None:
        """Take up one job."""
        state, sweep = self._state(planned_job), self.sweep
        tries = self.cache.of(planned_job.folder).attempts
        if not state.state.is_final:
            sweep.set_aside += self.cache.of(planned_job.folder).set_aside
        sweep.jobs.append((planned_job, state))
        self._count(planned_job, state)
        self.speeds.add(planned_job.plan, planned_job.job, tries)
        for attempt in tries:
            self._spent(attempt)
        if state.state is State.RUNNING and tries and not tries[-1].ended:
            left = planned_job.flops * (1 - _share(planned_job, state))
            sweep.running.append(running(planned_job, tries[-1], state.step, left, self.now))
        if state.state is State.INTERRUPTED and not tries[-1].ended:
            sweep.killed[len(sweep.jobs) - 1] = tries[-1].facts
        sweep.other_code += bool(tries) and _by_other_code(tries[-1].facts)
        if state.state is State.FAILED:
            sweep.problems.append(Problem(planned_job, "failed", state.failure, _why(state, tries[-1])))
        self.cache.of(planned_job.folder).forget_attempts()

    def sums(self) -> SweepStatus:
        """What takes all of the jobs to know."""
        sweep = self.sweep
        sweep.rungs = list(self._rungs.values())
        sweep.kinds = {kind: sweep.kinds[kind] for kind in KINDS if kind in sweep.kinds}
        waiting = Counter(e.job.trunk for e, state in sweep.jobs if state.state is State.WAITING)
        for place, problem in enumerate(sweep.problems):
            number = waiting[problem.planned_job.job.id]
            sweep.problems[place] = dataclasses.replace(problem, waiting=number)
        sweep.problems += [_silent(attempt) for attempt in sweep.running if attempt.silent]
        sweep.left_s = self._device_seconds_left()
        sweep.eta_s = self._eta()
        return sweep

    def _state(self, planned_job: PlannedJob) -> JobState:
        state = self.sweep_jobs.state(planned_job, self.cache)
        if planned_job.job.id in self.cancelled and state.state in (
            State.READY,
            State.INTERRUPTED,
            State.WAITING,
        ):
            return dataclasses.replace(state, state=State.CANCELLED)
        return with_task(state, self.queue.get(planned_job.job.id))

    def _count(self, planned_job: PlannedJob, state: JobState) -> None:
        sweep, share = self.sweep, _share(planned_job, state)
        key = (planned_job.plan.stage, planned_job.plan.rung_of(planned_job.job).name)
        flops, tokens = (
            planned_job.flops,
            planned_job.steps_to_train * planned_job.plan.batch_tokens(planned_job.job),
        )
        rung = self._rungs.setdefault(key, RungStatus(*key))
        rung.states[state.state] += 1
        rung.flops += flops
        rung.flops_done += flops * share
        kind = sweep.kinds.setdefault(planned_job.job.kind, KindStatus())
        kind.states[state.state] += 1
        if state.failure:
            kind.failures[state.failure] += 1
        sweep.tokens += tokens
        sweep.tokens_done += round(tokens * share)
        if share < 1:
            self._left.append((planned_job, state, flops * (1 - share)))

    def _spent(self, attempt: Attempt) -> None:
        facts, sweep = attempt.facts, self.sweep
        train_s = facts.train_s
        if train_s is None and facts.started:  # it runs, or was killed: from claim to last heartbeat
            sweep.spent_s += facts.devices * max(0.0, last_sign(attempt) - facts.started)
        sweep.train_s += train_s or 0.0
        sweep.spent_s += facts.devices * (train_s or 0.0)
        sweep.on_gpus |= _on_gpu(facts)

    def _device_seconds_left(self) -> float | None:
        """By each rung's measured speed; where none was, at the mean pace of what runs now."""
        rates, pace = self.speeds.rates(), mean_speed(self.sweep.running)
        left = 0.0
        for planned_job, _, flops in self._left:
            rate = rates.get(planned_job.plan.rung_of(planned_job.job).name)
            speed = rate.flops_per_s if rate is not None else pace
            if speed is None:
                return None
            left += flops / speed
        return left

    def _eta(self) -> float | None:
        """Of what is under way or can be: not of what failed or was cancelled, nor of what waits for that."""
        stuck = {
            planned_job.job.id
            for planned_job, state in self.sweep.jobs
            if state.state in (State.FAILED, State.CANCELLED)
        }
        coming = [
            (planned_job, flops)
            for planned_job, state, flops in self._left
            if planned_job.job.id not in stuck
            and not (state.state is State.WAITING and planned_job.job.trunk in stuck)
        ]
        after: dict[str, float] = {}
        for planned_job, flops in coming:
            if planned_job.job.trunk is not None:
                after[planned_job.job.trunk] = max(flops, after.get(planned_job.job.trunk, 0.0))
        return time_left(self.sweep.running, sum(flops for _, flops in coming), after)


def last_line(text: str) -> str:
    """The last line that says something; empty where none does."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _why(state: JobState, attempt: Attempt) -> str:
    if attempt.facts.error:
        return last_line(state.note)
    log = attempt.facts.log
    return last_line("\n".join(metrics.tail(Path(log)))) if log else ""


def _silent(attempt: Running) -> Problem:
    return Problem(
        attempt.planned_job, "silent", None, f"on {attempt.host or 'an unknown host'}", attempt.silent_s
    )


def _share(planned_job: PlannedJob, state: JobState) -> float:
    return 1.0 if state.state.is_final else planned_job.share(state.step)


def _on_gpu(facts: Facts) -> bool:
    if facts.device_kind is None:
        return any(name in (facts.device or "") for name in GPU_NAMES)
    return facts.device_kind != "cpu"


def _by_other_code(facts: Facts) -> bool:
    return facts.submitted_code not in (None, facts.code)
