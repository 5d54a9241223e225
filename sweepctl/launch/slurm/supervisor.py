"""A Slurm task at work: the job it is meant for, then whatever can start, until nothing can or time is up."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path

from sweepctl.errors import StorageError, SweepctlError, WorkFailed
from sweepctl.launch import mps
from sweepctl.launch.due import Due
from sweepctl.launch.feed import Decision, Feed
from sweepctl.launch.local import visible_gpus
from sweepctl.launch.slurm import commands
from sweepctl.launch.slurm.commands import SlurmError
from sweepctl.launch.slurm.dispatch import dispatch
from sweepctl.launch.slurm.patience import patiently
from sweepctl.launch.slurm.records import (
    Array,
    Records,
    SlurmOrder,
    end_restart,
    note_progress,
    outrun,
)
from sweepctl.launch.slurm.release import Releaser
from sweepctl.launch.slurm.restarts import REFUSED
from sweepctl.launch.slurm.task_process import TaskProcess
from sweepctl.launch.workers import Pool, Worker, seconds_of
from sweepctl.resources import code_version
from sweepctl.store import attempts, checkpoints
from sweepctl.store.attempts import Attempt
from sweepctl.store.clock import file_system_time
from sweepctl.store.ends import End
from sweepctl.store.facts import Dispatch
from sweepctl.store.files import write_text
from sweepctl.store.protocol import Died, Ended, Event, Progress, Saved
from sweepctl.store.state import State
from sweepctl.store.sweep_jobs import PlannedJob

POLL_S = 0.2
LOOK_S = 3.0
"""How often it looks whether it was cancelled or has been started anew elsewhere."""
START_S = 60.0
"""How long a task may take from taking its job in hand to owning it; others leave the job alone meanwhile."""
SCAN_S = 30.0
"""How often a task that waits for its own job looks at all the others."""
STANDSTILLS = 3
"""Restarts without progress after which a job is not requeued any more."""
NEAR_S = 120.0
"""How early Slurm may send the signal of the time limit, and more."""
LINGER_S = 900.0
"""How long it waits to be killed once its state is saved and it is in the queue again."""


class Leaving(Enum):
    """Why a task takes no other job."""

    ASKED = "told to end"
    """Slurm says so."""
    TIME = "out of time"
    """The time limit is near."""
    BROKEN = "nothing works here"
    """Neither the file system nor the workers do."""


class Supervisor:
    """Rank 0 of a task. Its workers, one or several side by side, take one job after another: torch is
    imported once a worker."""

    def __init__(self, process: TaskProcess, records: Records, array: Array, order: SlurmOrder) -> None:
        self.process, self.records, self.array, self.order = process, records, array, order
        self.launcher = order.settings
        self.sweep_jobs = order.sweep_jobs(records.sweep)
        self._of_rungs = {rung: self.launcher.of_rung(rung) for rung in self.sweep_jobs.rungs}
        self._mine = replace(self.launcher.of_rung(array.rung), resources=array.resources)
        self.releaser: Releaser | None = None
        if self.launcher.commands_on_nodes:
            self.releaser = Releaser(records.sweep.workspace, array.cluster, self.say)
        self.dispatch = Dispatch(
            launcher="slurm",
            scheduler_id=process.task,
            cluster=array.cluster,
            job_name=array.name,
            array=array.token,
            restart=process.restart,
            user=os.getuid(),
            log=str(process.log),
            submitted_code=order.code,
        )
        self.feed = Feed(
            self.sweep_jobs,
            self.sweep_jobs.by_id.values(),
            self.launcher.retries,
            tell=self._decided,
            forgiven=lambda job: records.forgiven().get(job, 0),
            gone=lambda owner: owner.has_lost_its_place(self.dispatch, array.gone),
            keep=self.launcher.execution.keep,
            for_all_sweeps=True,
        )
        self._others, self._beside = Due(LOOK_S), Due(LOOK_S)
        self._spare = False
        self._finished: list[str] = []
        self._leaving: Leaving | None = None
        self._outrun = False
        self._failed = self._refused = self._got_further = self._lingered = False
        self._losses = 0

    def say(self, text: str) -> None:
        """A line in the task's log."""
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def run(self) -> int:
        """Train until nothing more can start here; the exit code."""
        process = self.process
        self.say(f"task {process.task} restart {process.restart} on {process.processes} process(es)")
        if self.order.code != code_version():
            self.say("warning: the code has changed since this task was submitted")
        signal.signal(signal.SIGTERM, lambda *_: self._leave(Leaving.ASKED))
        signal.signal(signal.SIGURG, lambda *_: self._hear_signal())
        pool: Pool | None = None
        daemons = contextlib.ExitStack()  # of GPUs that workers share
        try:
            planned_job = self._next_or_wait()
            if planned_job is not None or process.processes > 1:
                pool = self._pool(daemons)
            while planned_job is not None and pool is not None and not self._leaving and not self._outrun:
                try:
                    self._train(planned_job, pool)
                except (StorageError, WorkFailed) as error:
                    self.say(str(error))
                    self._failed, self._refused = True, isinstance(error, StorageError)
                    self._leave(Leaving.BROKEN)
                planned_job = self._next_or_wait()
        finally:
            if pool is not None:
                pool.stop()
            daemons.close()
            if self.releaser is not None:
                self.releaser.close()
        return self._end(planned_job)

    def _pool(self, daemons: contextlib.ExitStack) -> Pool:
        """One worker, with what the task has; or several that share it, each with a GPU in turn."""
        mine, process = self._mine, self.process
        count, threads, alone = mine.side_by_side, mine.execution.threads, mine.side_by_side == 1
        gpus = [] if alone or mine.execution.device == "cpu" else visible_gpus()
        of_gpu = daemons.enter_context(mps.shared(gpus if mine.execution.per_gpu > 1 else [], self.say))
        return Pool(count, threads, gpus, process.folder, process.log, alone, mine.gpu, of_gpu)

    def _leave(self, why: Leaving) -> None:
        self._leaving = self._leaving or why

    def _hear_signal(self) -> None:
        """Our own `--signal`: the time limit is near, or the task is preempted, where a site sends it for
        that."""
        near = time.time() > self.process.ends - max(NEAR_S, self.launcher.save_ahead_s)
        self._leave(Leaving.TIME if near else Leaving.ASKED)

    def _end(self, unfinished: PlannedJob | None) -> int:
        """End, or, with work left, go back into the queue."""
        try:
            code = self._exit_code(unfinished)
        except (StorageError, OSError) as error:  # what is left nobody can say now: its script asks again
            self.say(str(error))
            return REFUSED
        if self._leaving is not Leaving.BROKEN and not self._lingered:
            end_restart(self.process.folder, self.process.index, self.process.restart, self.process.node)
        return code

    def _exit_code(self, unfinished: PlannedJob | None) -> int:
        if self._outrun:
            self.say("this task has been started anew elsewhere")
            return 0
        if self._leaving is Leaving.BROKEN:  # its script has it requeued
            return REFUSED if self._refused else 1
        if self._leaving is Leaving.TIME and self._no_progress():
            return 1
        if unfinished is not None or (self._leaving and self._next() is not None):
            self.say(f"saved; {self._leaving.value if self._leaving else Leaving.ASKED.value}")
            if self._leaving is Leaving.TIME and not self.launcher.commands_on_nodes:
                return 0
            return self._linger()
        self._top_up()
        self.say("nothing left to start")
        return int(self._failed)

    def _no_progress(self) -> bool:
        """Whether restart after restart met the time limit before any job in hand got anywhere: then they
        have failed."""
        in_hand = (self.sweep_jobs.by_id.get(job) for job in _jobs_in(self._hand))
        tries = [attempts.every(e.folder)[-STANDSTILLS:] for e in in_hand if e is not None]
        left = [of_job for of_job in tries if of_job and of_job[-1].facts.why not in (End.DONE, End.DIVERGED)]
        if not left or not all(map(self._at_a_standstill, left)):
            return False
        for *_, attempt in left:
            error = f"{STANDSTILLS} starts ended at step {attempt.facts.end_step}, out of time"
            error += "; raise resources.time_min or lower save_ahead_s."
            attempt.end(End.REQUEST, error=error)
            self.say(error)
        return True

    def _at_a_standstill(self, tries: list[Attempt]) -> bool:
        """Whether several attempts of this array all began and stopped at one step."""
        facts = [attempt.facts for attempt in tries]
        steps = {step for of_attempt in facts for step in (of_attempt.start_step, of_attempt.end_step)}
        mine = all((f.array, f.why) == (self.array.token, End.STOPPED) for f in facts)
        return len(tries) == STANDSTILLS and mine and len(steps) == 1

    def _linger(self) -> int:
        """Stay until Slurm ends this process: one that ends by itself is not requeued. A preempted task does
        not wait for the end of its grace."""
        self._lingered = True
        deadline = time.monotonic() + LINGER_S
        requeued = not self.launcher.commands_on_nodes
        while time.monotonic() < deadline:
            if not requeued:
                with contextlib.suppress(SlurmError):
                    if self._leaving is Leaving.TIME or commands.state(self.process.task) == "RUNNING":
                        commands.requeue(self.process.task)
                    requeued = True
            time.sleep(1.0)
        return 1

    def _top_up(self) -> None:
        """Submit what was refused before, now that this task makes room; take back tasks whose jobs several
        workers have trained here."""
        shared = self._mine.side_by_side > 1
        if self.launcher.commands_on_nodes and (shared or self.records.unsubmitted() is not None):
            try:
                order = self.records.newest_order() or self.order
                done = dispatch(self.records, order, order.sweep_jobs(self.records.sweep), ending=1)
                self.say(f"submitted {done.submitted} more, {done.unsubmitted} are left")
            except SweepctlError as error:
                self.say(str(error))

    # Which job

    def _next_or_wait(self) -> PlannedJob | None:
        """The next job, once the file system says which."""
        try:
            return patiently(
                self._search, self.say, self.launcher.retries.storage, lambda: bool(self._leaving)
            )
        except StorageError as error:
            self.say(str(error))
            self._failed = self._refused = True
            self._leave(Leaving.BROKEN)
            return None

    def _search(self) -> PlannedJob | None:
        """The next job; where the site lets no one release tasks, the one that this task is meant for is
        waited for."""
        deadline = time.monotonic() + 60 * self.launcher.wait_min
        own, jobs = self.array.jobs[self.process.index], self.feed.open
        while True:
            self._rest()
            if not self._leaving and time.time() > self.process.ends - self.launcher.save_ahead_s:
                self._leave(Leaving.TIME)
            planned_job = self._next()
            if planned_job is None and self.feed.rest_s() and not self._leaving:
                continue  # the file system would not say what there is to do
            waits = own in jobs and not self.launcher.commands_on_nodes and self._waits(jobs[own])
            if planned_job is not None or self._leaving or self._outrun or not waits:
                return planned_job
            scan = time.monotonic() + SCAN_S
            while time.monotonic() < scan and not self._leaving and not self.feed.can_start(jobs[own]):
                if time.monotonic() > deadline:
                    return None
                time.sleep(1.0)
                if own not in jobs or not self._waits(jobs[own]):
                    break

    def _waits(self, planned_job: PlannedJob) -> bool:
        """Whether a branch's checkpoint may still come."""
        if (
            planned_job.trunk is None
            or self.sweep_jobs.finished(planned_job)
            or self.sweep_jobs.can_start(planned_job)
        ):
            return False
        return planned_job.job.id not in self.feed.cancelled | self.feed.dropped

    def _rest(self) -> None:
        """Sit out the pauses of the feed. Who is leaving must know what is left, not what may start."""
        while self.feed.rest_s() and not self._leaving:
            time.sleep(0.2)
        self.feed.wake()

    def _next(self) -> PlannedJob | None:
        self._look_around()
        planned_job = next(self._candidates(), None)
        if self._finished:
            self.records.sweep.note_finished(self._finished)
            self._finished.clear()
        return planned_job

    def _candidates(self) -> Iterator[PlannedJob]:
        """What this task had in hand, what it is meant for, then the most urgent that no other is about to
        start."""
        jobs = self.feed.open
        own = [*_jobs_in(self._hand), self.array.jobs[self.process.index]]
        yield from (jobs[job] for job in own if job in jobs and self._may_start(jobs[job]))
        for job in self.records.sweep.noted_finished() - set(own):
            jobs.pop(job, None)
        starting: set[str] | None = None
        for planned_job in self.feed.startable(self._fits):
            starting = self._starting() if starting is None else starting
            if planned_job.job.id not in starting:
                yield planned_job

    def _starting(self) -> set[str]:
        """Jobs that other tasks took in hand a moment ago."""
        jobs = set()
        for array in self.records.arrays():
            for path in (self.records.array_folder(array.token) / "tasks").glob("*.job"):
                with contextlib.suppress(OSError):
                    now = file_system_time(path.parent)
                    if path != self._hand and now - path.stat().st_mtime < START_S:
                        jobs.update(_jobs_in(path))
        return jobs

    def _may_start(self, planned_job: PlannedJob) -> bool:
        return self._fits(planned_job) and self.feed.can_start(planned_job)

    def _fits(self, planned_job: PlannedJob) -> bool:
        """Whether the job is of this task's class; what has no task of its own may also be smaller."""
        wanted = self._of_rungs[planned_job.plan.rung_of(planned_job.job).name]
        if wanted == self._mine or planned_job.job.id == self.array.jobs[self.process.index]:
            return True
        return self._spare and wanted.within(self._mine)

    @property
    def _hand(self) -> Path:
        return self.process.folder / "tasks" / f"{self.process.index}.job"

    # Jobs in hand

    def _train(self, planned_job: PlannedJob, pool: Pool) -> None:
        """Have the workers train a job, and beside it what else can start, until all have ended, one way or
        another.

        Raises:
            StorageError: the file system has refused too often.
            WorkFailed: workers end before they begin.
        """
        self._start(planned_job, pool)
        while self.feed.in_hand:
            self._listen(pool)
            pool.end_hanging(seconds_of(self.launcher.watchdog_min), self._stop_s())
            for worker in pool.workers:
                if worker.job in self.feed.in_hand:
                    self._attend(worker)
            self._fill(pool)

    def _attend(self, worker: Worker) -> None:
        """Give up a worker that cannot even be killed; have one stop whose job must."""
        planned_job = self.sweep_jobs.by_id[worker.job or ""]
        if worker.is_stuck:
            self.feed.died(planned_job, worker.process.pid, "", worker.log, worker.fault)
            self._leave(Leaving.BROKEN)
        elif worker.stopping_since is None and self._must_stop(planned_job.job.id):
            worker.stop_job()

    def _fill(self, pool: Pool) -> None:
        """Begin more jobs where workers are free beside those that train."""
        while self.feed.in_hand and not self._leaving and not self._outrun and pool.free():
            planned_job = None
            with contextlib.suppress(StorageError):  # it is looked again soon
                planned_job = self._next() if self._beside.is_due() else None
            if planned_job is None:
                return
            self._start(planned_job, pool)
            self._beside.hasten()

    def _start(self, planned_job: PlannedJob, pool: Pool) -> None:
        """Hand a job to a worker."""
        if not (free := pool.free()):
            self._listen(pool)  # its process is being ended: then there is another
            return
        job, worker = planned_job.job.id, free[0]
        execution = self._of_rungs[planned_job.plan.rung_of(planned_job.job).name].execution
        try:
            write_text(self._hand, "\n".join([*sorted(self.feed.in_hand), job]))
            step = max(checkpoints.steps(planned_job.folder), default=0)
            manifest = self.sweep_jobs.manifest(planned_job, execution, self.dispatch, self.array.gone)
        except StorageError as error:
            self.feed.refused(planned_job, str(error))
            return
        self.say(f"{planned_job.name} {job}")
        self._release(planned_job, step)
        if not worker.give(manifest):
            self._listen(pool)  # its process is gone: then there is another
            return
        self.feed.started(planned_job)

    def _listen(self, pool: Pool) -> None:
        for worker, event in pool.events(POLL_S):
            self._handle(worker, event, pool)

    def _handle(self, worker: Worker, event: Event | Died, pool: Pool) -> None:
        if not isinstance(event, Progress):
            self._beside.hasten()
        match event:
            case Saved(job, step):
                self._note_progress()
                self._release(self.sweep_jobs.by_id[job], step)
            case Ended(job, end, message):
                self.feed.ended(self.sweep_jobs.by_id[job], end, message)
                if end is End.INFRASTRUCTURE and not self._must_stay():
                    self._leave(Leaving.BROKEN)
                elif end is End.INFRASTRUCTURE or (self.process.processes > 1 and end is End.OUT_OF_MEMORY):
                    self._renew(worker, pool)
            case Died() if worker.job is not None:
                planned_job = self.sweep_jobs.by_id[worker.job]
                self.feed.died(planned_job, worker.process.pid, event.reason, worker.log, worker.fault)
                if worker.fault is not None and self.launcher.commands_on_nodes:
                    self._leave(Leaving.BROKEN)
            case Died() if not worker.ready:
                self.feed.stillborn(worker.log)
            case _:
                pass

    def _must_stay(self) -> bool:
        """Whether this task goes on where a machine has failed: nobody would requeue it, or, of several
        processes, they have lost each other for the first time."""
        self._losses += 1
        return not self.launcher.commands_on_nodes or (self.process.processes > 1 and self._losses == 1)

    def _stop_s(self) -> float:
        """How long a worker may take to save and stop: it must be over before Slurm ends this task."""
        if self._leaving is Leaving.TIME:
            return 0.75 * self.launcher.save_ahead_s
        return seconds_of(self.launcher.watchdog_min)

    def _note_progress(self) -> None:
        if not self._got_further:
            self._got_further = True
            note_progress(self.process.folder, self.process.index)

    def _release(self, trunk: PlannedJob, step: int) -> None:
        """A checkpoint is durable: whoever waits for it may start."""
        if trunk.job.kind == "trunk" and self.releaser is not None:
            self.releaser.reached(trunk.folder, step)

    @staticmethod
    def _renew(worker: Worker, pool: Pool) -> None:
        """Another worker, where this one may have lost the processes it trains with; they follow the next."""
        if len(pool.workers) > 1:
            worker.end("a machine has failed")
            return
        worker.process.kill()
        while not any(isinstance(event, Died) for _, event in pool.events(POLL_S)):
            pass

    def _must_stop(self, job: str) -> bool:
        self._look_around()
        if time.time() > self.process.ends - self.launcher.save_ahead_s:
            self._leave(Leaving.TIME)
        return bool(self._leaving) or self._outrun or job in self.feed.cancelled

    def _look_around(self) -> None:
        """See what others did: a cancel, a newer restart of this task, jobs left without a task."""
        if self._others.is_due():
            with contextlib.suppress(OSError, StorageError):
                self.feed.look_for_cancels()
                self._outrun = outrun(self.process.folder, self.process.index, self.process.restart)
                self._spare = self.records.unsubmitted() is not None

    def _decided(self, decision: Decision) -> None:
        """Say it, and do what Slurm is to know of it."""
        planned_job, end = decision.planned_job, decision.end
        if decision.state.is_final and planned_job.job.kind != "trunk":
            self._finished.append(planned_job.job.id)
        if end is None:
            return
        lines = decision.message.strip().splitlines()
        self.say(f"{end} {planned_job.name} {planned_job.job.id}" + (f": {lines[-1]}" if lines else ""))
        if not end.frees_job:
            self._others.hasten()
        if decision.state is State.FAILED:
            self._failed = True
        if decision.state.is_final:
            self._note_progress()
        if decision.state is State.DIVERGED and planned_job.job.kind == "trunk" and self.releaser is not None:
            self.releaser.diverged(planned_job.folder)


def _jobs_in(hand: Path) -> list[str]:
    """The jobs that a task has in hand."""
    try:
        return hand.read_text().split()
    except OSError:
        return []
