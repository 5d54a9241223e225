"""Every end of an attempt, as a launch on this machine and a Slurm task meet it: workers that really end so,
on the tiny study. No Slurm is asked."""

from __future__ import annotations

import json
import math
import os
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweepctl.errors import StorageError
from sweepctl.launch.feed import Decision
from sweepctl.launch.local import LocalLaunch
from sweepctl.launch.retries import Retries
from sweepctl.launch.slurm.records import Array, Records, SlurmOrder
from sweepctl.launch.slurm.restarts import REFUSED
from sweepctl.launch.slurm.supervisor import Supervisor
from sweepctl.launch.slurm.task_process import TaskProcess
from sweepctl.launch.workers import Pool, Worker
from sweepctl.spec.build import plain
from sweepctl.spec.execution import Execution
from sweepctl.store import attempts
from sweepctl.store.ends import End
from sweepctl.store.protocol import Died, Event, Progress
from sweepctl.store.state import State
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from tests.conftest import Planner, only
from tests.launch.settings import local, retries, slurm

WILD = {"parametrization__name": "standard", "parametrization__zero_head": False, "optimizer__lr": 1e30}
SECONDS = {"budget__tokens": [200_000]}
"""Long enough to be in the middle of."""
MINUTES = {"budget__tokens": [2_000_000]}
"""Longer than anybody waits."""
DEFAULT = retries()


class Bench(ABC):
    """A launch of the tiny study's first rung with one worker, and what it says. `act` is done once, when the
    worker's job makes progress."""

    def __init__(self, planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
        self._planned, self._monkeypatch = planned, monkeypatch
        self.words = ""
        self.act: Callable[[], None] | None = None
        self.hangs = False

    def plan(self, **study: Any) -> PlannedJob:
        self.sweep_jobs: SweepJobs = self._planned(name="ends", ladder__depths=[1], **study)
        [trunk] = only(self.sweep_jobs, "trunk")
        return trunk

    def trouble(self, end: End, times: int) -> None:
        """The first checkpoints fail so, whoever writes them."""
        marks = tempfile.mkdtemp(dir=self.sweep_jobs.sweep.folder)
        self._monkeypatch.setenv("TROUBLE", f"{end} {times} {marks}")
        places = [str(Path(__file__).parent / "trouble"), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))

    @abstractmethod
    def launch(self, budgets: Retries = DEFAULT, **execution: Any) -> int:
        """Train what can be trained; the exit code."""

    @abstractmethod
    def tell_to_stop(self) -> None:
        """Somebody wants this launch to end."""

    def all_are(self, state: State) -> bool:
        return {
            self.sweep_jobs.state(planned_job).state for planned_job in self.sweep_jobs.by_id.values()
        } == {state}

    def has_progressed(self) -> None:
        if self.act is not None:
            act, self.act = self.act, None
            act()


class OnThisMachine(Bench):
    """It is its own watcher."""

    def launch(self, budgets: Retries = DEFAULT, **execution: Any) -> int:
        settings = local(workers=1, retries=budgets, **execution)
        return LocalLaunch(self.sweep_jobs, settings, self).run().exit_code

    def tell_to_stop(self) -> None:
        raise KeyboardInterrupt

    def started(self, planned_job: PlannedJob, worker: int) -> None: ...

    def progress(self, planned_job: PlannedJob, step: int) -> None:
        if step > 20:
            self.has_progressed()

    def ended(self, decision: Decision) -> None:
        self.words += decision.words + "\n"

    def say(self, text: str) -> None: ...

    def tick(self, elsewhere: int) -> None:
        if elsewhere:
            self.has_progressed()


class InATask(Bench):
    """A task that may not call Slurm's commands."""

    def launch(self, budgets: Retries = DEFAULT, **execution: Any) -> int:
        settings = slurm(
            resources={"gpus_per_node": None},
            commands_on_nodes=False,
            retries=plain(budgets),
            save_ahead_s=1,
            execution=plain(Execution(**execution)),
        )
        sweep = self.sweep_jobs.sweep
        records, order = Records(sweep), SlurmOrder(sweep.stage_hashes(), (), plain(settings), "")
        [trunk] = only(self.sweep_jobs, "trunk")
        array = Array("a1", order.hash, "ends.a1", "cluster", (trunk.job.id,), settings.resources)
        process = TaskProcess(records.intend(array), "7", 0, 0, 0, 1, "node1", time.time() + 3600)
        self.sweep_jobs.make_wishes()
        Watched.bench = self
        supervisor = Watched(process, records, array, order)
        self._monkeypatch.setattr("sweepctl.launch.slurm.supervisor.LINGER_S", 0.0)
        before = signal.getsignal(signal.SIGTERM)
        try:
            return supervisor.run()
        finally:
            signal.signal(signal.SIGTERM, before)

    def tell_to_stop(self) -> None:
        signal.raise_signal(signal.SIGTERM)


class Watched(Supervisor):
    """A task that shows what goes on."""

    bench: InATask

    def say(self, text: str) -> None:
        self.bench.words += text + "\n"

    def _handle(self, worker: Worker, event: Event | Died, pool: Pool) -> None:
        super()._handle(worker, event, pool)
        if isinstance(event, Progress) and event.step > 20:
            self.bench.has_progressed()


@pytest.fixture(params=[OnThisMachine, InATask])
def bench(request: pytest.FixtureRequest, planned: Planner, monkeypatch: pytest.MonkeyPatch) -> Bench:
    kind: type[Bench] = request.param
    return kind(planned, monkeypatch)


def ends(trunk: PlannedJob) -> list[End | None]:
    return [attempt.facts.why for attempt in attempts.every(trunk.folder)]


def done(bench: Bench) -> None:
    trunk = bench.plan()
    assert bench.launch() == 0 and bench.all_are(State.DONE) and ends(trunk) == [End.DONE]


def diverged(bench: Bench) -> None:
    trunk = bench.plan(**WILD)
    assert bench.launch() == 0 and bench.all_are(State.DIVERGED) and ends(trunk) == [End.DIVERGED]


def stopped(bench: Bench) -> None:
    trunk = bench.plan(**MINUTES)
    bench.act = bench.tell_to_stop
    assert bench.launch() != 0 and ends(trunk) == [End.STOPPED]
    state = bench.sweep_jobs.state(trunk)
    assert state.state is State.INTERRUPTED and state.step >= 20


def superseded(bench: Bench) -> None:
    """Somebody else has owned the job meanwhile, and given it up."""
    trunk = bench.plan(**SECONDS)

    def supersede() -> None:
        newer = trunk.folder.attempts / "0002"
        newer.mkdir()
        (newer / "attempt.json").write_text(json.dumps({"attempt": 2, "why": "stopped"}))

    bench.act = supersede
    bench.launch()
    assert ends(trunk)[:2] == [End.SUPERSEDED, End.STOPPED]
    bench.launch()  # a task has no reason to wait for what another has
    assert ends(trunk)[2:] == [End.DONE] and bench.all_are(State.DONE)


def busy(bench: Bench) -> None:
    """What another process has is left to it."""
    trunk = bench.plan()
    theirs = attempts.claim(trunk.folder, {})
    assert theirs is not None
    if isinstance(bench, InATask):
        assert bench.launch() == 0 and ends(trunk) == [None]
        theirs.end(End.STOPPED)
    else:
        bench.act = lambda: theirs.end(End.STOPPED)
    assert bench.launch() == 0 and ends(trunk) == [End.STOPPED, End.DONE] and bench.all_are(State.DONE)


def failed(bench: Bench) -> None:
    trunk = bench.plan()
    bench.trouble(End.FAILED, 1)
    assert bench.launch() == 1 and ends(trunk) == [End.FAILED]
    assert "a fault of the test" in bench.words and "again" not in bench.words


def request(bench: Bench) -> None:
    trunk = bench.plan()
    assert bench.launch(micro_batch_rows=3) == 1 and ends(trunk) == [End.REQUEST]
    assert "does not divide the 4 rows" in bench.words


def storage(bench: Bench) -> None:
    """It is waited for a second, then there is room; where it is not waited for the launch ends."""
    trunk = bench.plan()
    bench.trouble(End.STORAGE, 1)
    assert bench.launch() == 0 and ends(trunk)[-1] is End.DONE and bench.all_are(State.DONE)
    assert "disk is full" in bench.words and "Trying again in 1 s" in bench.words
    bench.plan(optimizer__lr=0.01)
    bench.trouble(End.STORAGE, 1)
    if isinstance(bench, InATask):
        assert bench.launch(retries(storage=0)) == REFUSED and "It was tried 1 times" in bench.words
    else:
        with pytest.raises(StorageError, match=r"disk is full.* It was tried 1 times"):
            bench.launch(retries(storage=0))


def out_of_memory(bench: Bench) -> None:
    """Once: half the micro-batch will do. Twice at one step: the job has failed of what was missing."""
    trunk = bench.plan()
    bench.trouble(End.OUT_OF_MEMORY, 1)
    assert bench.launch() == 0 and ends(trunk) == [End.OUT_OF_MEMORY, End.DONE]
    assert [a.facts.micro_batch_rows for a in attempts.every(trunk.folder)] == [4, 2]
    assert "no 3 GB; it is tried again with half the micro-batch" in bench.words
    trunk = bench.plan(optimizer__lr=0.01)
    bench.trouble(End.OUT_OF_MEMORY, 2)
    bench.words = ""
    assert bench.launch() == 1 and ends(trunk) == [End.OUT_OF_MEMORY, End.OUT_OF_MEMORY]
    assert bench.words.splitlines()[1 if isinstance(bench, OnThisMachine) else -2].endswith("no 3 GB")
    assert [a.facts.micro_batch_rows for a in attempts.every(trunk.folder)] == [4, 2]


def infrastructure(bench: Bench) -> None:
    trunk = bench.plan()
    bench.trouble(End.INFRASTRUCTURE, 1)
    assert bench.launch(retries(infrastructure=0)) == 1 and ends(trunk) == [End.INFRASTRUCTURE]
    assert "lost the others" in bench.words


def test_a_worker_that_hangs_is_ended_and_its_job_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped by a signal that it cannot see."""
    trunk = bench.plan(**SECONDS)

    def hang() -> None:
        os.kill(attempts.every(trunk.folder)[-1].facts.pid or 0, signal.SIGSTOP)
        bench.hangs = True

    def hangs(worker: Worker, silent_s: float, stop_s: float) -> str | None:
        patience_s = 0.2 if bench.hangs else math.inf
        fault = before(worker, patience_s, stop_s)
        bench.hangs = bench.hangs and fault is None
        return fault

    before = Worker.hangs
    monkeypatch.setattr(Worker, "hangs", hangs)
    bench.act = hang
    assert bench.launch() == 0 and ends(trunk) == [End.INFRASTRUCTURE, End.DONE]
    assert bench.all_are(State.DONE) and "no sign of life" in bench.words
    assert "no sign of life" in str(attempts.every(trunk.folder)[0].facts.error)


def died(bench: Bench) -> None:
    """Killed from outside in the middle of a job."""
    trunk = bench.plan(**SECONDS)
    bench.act = lambda: os.kill(attempts.every(trunk.folder)[-1].facts.pid or 0, signal.SIGKILL)
    assert bench.launch() == 0 and ends(trunk) == [End.DIED, End.DONE] and bench.all_are(State.DONE)
    assert "signal 9; it goes on from its last checkpoint" in bench.words
    assert "signal 9" in str(attempts.every(trunk.folder)[0].facts.error)


MET: dict[End, Callable[[Bench], None]] = {
    End.DONE: done,
    End.DIVERGED: diverged,
    End.STOPPED: stopped,
    End.SUPERSEDED: superseded,
    End.BUSY: busy,
    End.FAILED: failed,
    End.REQUEST: request,
    End.STORAGE: storage,
    End.OUT_OF_MEMORY: out_of_memory,
    End.INFRASTRUCTURE: infrastructure,
    End.DIED: died,
}


@pytest.mark.parametrize("end", End)
def test_every_end_is_met(bench: Bench, end: End) -> None:
    MET[end](bench)
