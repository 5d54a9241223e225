"""A Slurm task at work: the job it is meant for, then whatever can start, until nothing can or time is up."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from sweepctl.errors import StorageError, SweepctlError
from sweepctl.launch.slurm import commands
from sweepctl.launch.slurm.commands import SlurmError
from sweepctl.launch.slurm.dispatch import dispatch
from sweepctl.launch.slurm.failures import exhausted
from sweepctl.launch.slurm.records import Array, Records, SlurmOrder, outrun
from sweepctl.launch.slurm.release import Releaser
from sweepctl.launch.slurm.task import Place
from sweepctl.launch.workers import Pool
from sweepctl.resources import code_version
from sweepctl.store import attempts, checkpoints, retention
from sweepctl.store.board import Entry
from sweepctl.store.ends import End
from sweepctl.store.facts import Dispatch
from sweepctl.store.files import write_text
from sweepctl.store.protocol import Died, Ended, Saved

POLL_S = 0.2
LOOK_S = 3.0
"""How often it looks whether it was cancelled or has been started anew elsewhere."""
START_S = 60.0
"""How long a task may take from taking its job in hand to owning it; others leave the job alone meanwhile."""
SCAN_S = 30.0
"""How often a task that waits for its own job looks at all the others."""
BUSY_S = 20.0
"""How long a job that another process owns is left alone."""
STANDSTILLS = 3
"""Restarts without progress after which a job is not requeued any more."""
LINGER_S = 900.0
"""How long it waits to be killed once its state is saved and it is in the queue again."""


class Supervisor:
    """Rank 0 of a task. It keeps one worker, which imports torch once and takes one job after another."""

    def __init__(self, place: Place, records: Records, array: Array, order: SlurmOrder) -> None:
        self.place, self.records, self.array, self.order = place, records, array, order
        self.launcher = order.settings
        self.board = order.board(records.sweep)
        self.open = dict(sorted(self.board.entries.items(), key=lambda pair: -self.board.urgency(pair[1])))
        rungs = {rung.name for plan in self.board.plans.values() for rung in plan.rungs}
        self._resources = {name: self.launcher.resources_of(name) for name in rungs}
        self.releaser: Releaser | None = None
        if self.launcher.commands_on_nodes:
            self.releaser = Releaser(records.sweep.workspace, array.cluster, self.say)
        self.dispatch = Dispatch(
            launcher="slurm",
            scheduler_id=place.task,
            cluster=array.cluster,
            job_name=array.name,
            array=array.token,
            restart=place.restart,
            user=os.getuid(),
            log=str(place.log),
            submitted_code=order.code,
        )
        self.cancelled: set[str] = set()
        self._spare = False
        self._leaving = ""
        self._looked_at = -LOOK_S
        self._outrun = False
        self._not_before: dict[str, float] = {}
        self._refusals = 0
        self._stillborn = 0
        self._failed = False

    def say(self, text: str) -> None:
        """A line in the task's log."""
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def run(self) -> int:
        """Train until nothing more can start here; the exit code."""
        place = self.place
        self.say(f"task {place.task} restart {place.restart} on {place.processes} process(es)")
        if self.order.code != code_version():
            self.say("warning: the code has changed since this task was submitted")
        signal.signal(signal.SIGTERM, lambda *_: self._leave("told"))
        pool: Pool | None = None
        try:
            entry = self._next_or_wait()
            if entry is not None or place.processes > 1:
                pool = Pool(1, self.launcher.execution.threads, [], place.folder, place.log)
            while entry is not None and pool is not None and not self._leaving and not self._outrun:
                self._train(entry, pool)
                entry = self._next_or_wait()
        finally:
            if pool is not None:
                pool.stop()
            if self.releaser is not None:
                self.releaser.close()
        return self._end(entry)

    def _leave(self, why: str) -> None:
        self._leaving = self._leaving or why

    def _end(self, unfinished: Entry | None) -> int:
        """End, or, with work left, go back into the queue."""
        if self._outrun:
            self.say("this task has been started anew elsewhere")
            return 0
        if self._leaving == "broken":
            return 1
        if self._leaving == "time" and self._no_progress():
            return 1
        if unfinished is not None or (self._leaving and self._next() is not None):
            self.say(f"saved; {'out of time' if self._leaving == 'time' else 'told to end'}")
            if self._leaving == "time" and not self.launcher.commands_on_nodes:
                return 0
            return self._linger()
        self._top_up()
        self.say("nothing left to start")
        return int(self._failed)

    def _no_progress(self) -> bool:
        """Whether restart after restart met the time limit before it got anywhere: then the job has
        failed."""
        entry = self.board.entries.get(_read(self._hand))
        tries = [] if entry is None else attempts.every(entry.folder)[-STANDSTILLS:]
        facts = [attempt.facts for attempt in tries]
        steps = {step for of_attempt in facts for step in (of_attempt.start_step, of_attempt.end_step)}
        mine = all((f.array, f.why) == (self.array.token, End.STOPPED) for f in facts)
        if len(tries) < STANDSTILLS or not mine or len(steps) > 1:
            return False
        told = f"{STANDSTILLS} starts ended at step {steps.pop()}, out of time"
        told += "; raise resources.time_min or lower save_ahead_s."
        tries[-1].end(End.REQUEST, error=told)
        self.say(told)
        return True

    def _linger(self) -> int:
        """Stay until Slurm ends this process: one that ends by itself is not requeued."""
        deadline = time.monotonic() + LINGER_S
        requeued = self._leaving != "time"
        while time.monotonic() < deadline:
            if not requeued:
                with contextlib.suppress(SlurmError):
                    commands.requeue(self.place.task)
                    requeued = True
            time.sleep(1.0)
        return 1

    def _top_up(self) -> None:
        """Submit what was refused before, now that this task makes room."""
        if self.launcher.commands_on_nodes and self.records.unsubmitted() is not None:
            try:
                order = self.records.newest_order() or self.order
                done = dispatch(self.records, order, order.board(self.records.sweep), ending=1)
                self.say(f"submitted {done.submitted} more, {done.unsubmitted} are left")
            except SweepctlError as error:
                self.say(str(error))

    # Which job

    def _next_or_wait(self) -> Entry | None:
        """The next job; where the site lets no one release tasks, the one that this task is meant for is
        waited for."""
        deadline = time.monotonic() + 60 * self.launcher.wait_min
        own = self.array.jobs[self.place.index]
        while True:
            if not self._leaving and time.time() > self.place.ends - self.launcher.save_ahead_s:
                self._leave("time")
            entry = self._next()
            waits = own in self.open and not self.launcher.commands_on_nodes and self._waits(self.open[own])
            if entry is not None or self._leaving or self._outrun or not waits:
                return entry
            scan = time.monotonic() + SCAN_S
            while time.monotonic() < scan and not self._leaving and not self._eligible(self.open[own]):
                if time.monotonic() > deadline:
                    return None
                time.sleep(1.0)
                if own not in self.open or not self._waits(self.open[own]):
                    break

    def _waits(self, entry: Entry) -> bool:
        """Whether a branch's checkpoint may still come."""
        if entry.trunk is None or self.board.finished(entry) or self.board.can_start(entry):
            return False
        return entry.job.id not in self.cancelled

    def _next(self) -> Entry | None:
        self._look()
        return next(self._candidates(), None)

    def _candidates(self) -> Iterator[Entry]:
        """The job that this task had in hand, the one it is meant for, then the most urgent that no other
        task is about to start."""
        own = [_read(self._hand), self.array.jobs[self.place.index]]
        yield from (self.open[job] for job in own if job in self.open and self._eligible(self.open[job]))
        starting: set[str] | None = None
        for entry in list(self.open.values()):
            if self._eligible(entry):
                starting = self._starting() if starting is None else starting
                if entry.job.id not in starting:
                    yield entry

    def _starting(self) -> set[str]:
        """Jobs that other tasks took in hand a moment ago."""
        found = set()
        for array in self.records.arrays():
            for path in (self.records.array_folder(array.token) / "tasks").glob("*.job"):
                with contextlib.suppress(OSError):
                    if path != self._hand and time.time() - path.stat().st_mtime < START_S:
                        found.add(_read(path))
        return found

    def _eligible(self, entry: Entry) -> bool:
        job, now = entry.job.id, time.monotonic()
        if job in self.cancelled or self._not_before.get(job, 0.0) > now or not self._fits(entry):
            return False
        if entry.job.kind == "trunk":
            if not _wished_for(entry):
                return False
        elif self.board.finished(entry):
            self.open.pop(job, None)
            return False
        if not self.board.can_start(entry):
            return False
        last = attempts.newest(entry.folder)
        if (
            last is not None
            and last.alive()
            and not last.facts.has_lost_its_place(self.dispatch, self.array.gone)
        ):
            return False
        return not self._exhausted(entry, last)

    def _exhausted(self, entry: Entry, last: attempts.Attempt | None) -> bool:
        retries = self.launcher.retries
        return exhausted(entry.folder, last, retries) and exhausted(
            entry.folder, last, retries, self.records.forgiven().get(entry.job.id, 0)
        )

    def _fits(self, entry: Entry) -> bool:
        """Whether the job is of this task's class; what has no task of its own may also be smaller."""
        wanted, mine = self._resources[entry.plan.rung_of(entry.job).name], self.array.resources
        if wanted == mine or entry.job.id == self.array.jobs[self.place.index]:
            return True
        return self._spare and wanted.within(mine)

    @property
    def _hand(self) -> Path:
        return self.place.folder / "tasks" / f"{self.place.index}.job"

    # The job in hand

    def _train(self, entry: Entry, pool: Pool) -> None:
        """Have the worker train a job until it ends, one way or another."""
        job = entry.job.id
        try:
            write_text(self._hand, job)
        except StorageError as error:
            self._storage_refuses(entry, str(error))
            return
        self.say(f"{entry.name} {job}")
        if entry.job.kind == "trunk" and self.releaser is not None:
            self.releaser.reached(entry.folder, max(checkpoints.steps(entry.folder), default=0))
        execution = self.launcher.execution
        pool.workers[0].give(self.board.manifest(entry, execution, self.dispatch, self.array.gone))
        told = False
        while True:
            for worker, event in pool.events(POLL_S):
                if isinstance(event, Saved) and entry.job.kind == "trunk" and self.releaser:
                    self.releaser.reached(entry.folder, event.step)
                elif isinstance(event, Ended) and event.job == job:
                    worker.job = None
                    self._ended(entry, event.end, event.message)
                    if self.place.processes > 1 and event.end in (End.INFRASTRUCTURE, End.OUT_OF_MEMORY):
                        self._renew(pool)
                    return
                elif isinstance(event, Died):
                    self._died(entry, event.reason)
                    return
            if not told and self._must_stop(job):
                told = True
                pool.workers[0].stop_job()

    @staticmethod
    def _renew(pool: Pool) -> None:
        """Another worker, where this one may have lost the processes it trains with; they follow the next."""
        pool.workers[0].process.kill()
        while not any(isinstance(event, Died) for _, event in pool.events(POLL_S)):
            pass

    def _must_stop(self, job: str) -> bool:
        self._look()
        if time.time() > self.place.ends - self.launcher.save_ahead_s:
            self._leave("time")
        return bool(self._leaving) or self._outrun or job in self.cancelled

    def _look(self) -> None:
        """See what others did: a cancel, a newer restart of this task, jobs left without a task."""
        if time.monotonic() - self._looked_at < LOOK_S:
            return
        self._looked_at = time.monotonic()
        with contextlib.suppress(OSError):
            self.cancelled = self.records.sweep.cancelled()
            self._outrun = outrun(self.place.folder, self.place.index, self.place.restart)
            self._spare = self.records.unsubmitted() is not None

    def _ended(self, entry: Entry, end: End, message: str) -> None:
        job = entry.job.id
        if end is End.STORAGE:
            self._storage_refuses(entry, message)
            return
        self.say(f"{end} {entry.name} {job}" + (f": {message.strip().splitlines()[-1]}" if message else ""))
        if not end.frees_job:
            self._looked_at = -LOOK_S
            self._not_before[job] = time.monotonic() + BUSY_S
        elif end in (End.DONE, End.DIVERGED):
            self._refusals = 0
            self._done(entry)
        elif end.is_failure:
            self._failed = True
            if end is End.INFRASTRUCTURE:
                self._pause(5.0)

    def _done(self, entry: Entry) -> None:
        job = entry.job.id
        if entry.job.kind == "trunk" and self.releaser is not None and entry.folder.has_result():
            self.releaser.diverged(entry.folder)
        if entry.job.kind != "trunk":
            self.open.pop(job, None)

    def _died(self, entry: Entry, reason: str) -> None:
        """Its process is gone: say so on the attempt, so that the job is taken up again, or given up where it
        keeps dying at one place."""
        self.say(f"the worker died ({reason}) with {entry.name} {entry.job.id}")
        last = attempts.newest(entry.folder)
        mine = last is not None and last.facts.scheduler_id == self.place.task
        if last is None or not mine or last.ended or last.facts.restart != self.place.restart:
            self._stillborn += 1
            if self._stillborn > self.launcher.retries.died:
                self.say("workers end before they begin here")
                self._failed = True
                self._leave("broken")
            return
        with contextlib.suppress(StorageError):
            last.end(End.DIED, error=f"its process ended with {reason}")
            if self._exhausted(entry, last):
                last.update(out_of_retries=True, error=f"its process kept dying at one place ({reason})")
                self._failed = True

    def _storage_refuses(self, entry: Entry, message: str) -> None:
        """A full disk is waited for, ever longer, until the retries of its class are used up: the allocation
        is idle meanwhile."""
        self._refusals += 1
        if self._refusals > self.launcher.retries.storage:
            self.say(f"{message} It was tried {self._refusals} times.")
            self._failed = True
            self._leave("broken")
            return
        pause_s = min(60.0, 2.0 ** (self._refusals - 1))
        self.say(f"{message} Trying again in {pause_s:.0f} s.")
        self._pause(pause_s)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._leaving:
            time.sleep(0.2)


def _wished_for(trunk: Entry) -> bool:
    """Whether anybody's branch wants the trunk further than it is: the store knows of more sweeps and later
    plans than the order that this task came with."""
    reached = max(checkpoints.steps(trunk.folder), default=0)
    wished = any(wish.step > reached for wish in retention.open_wishes(trunk.folder))
    return wished and trunk.folder.result() is None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
