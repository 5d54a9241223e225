"""Every end of an attempt, as the local launcher meets it: workers that really end so, on the tiny study."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweepctl.errors import StorageError
from sweepctl.launch.feed import Decision
from sweepctl.launch.local import LocalLaunch, LocalSettings, Report
from sweepctl.launch.retries import Retries
from sweepctl.spec.execution import Execution
from sweepctl.store import attempts
from sweepctl.store.board import Board, Entry
from sweepctl.store.ends import End
from sweepctl.store.state import State
from tests.conftest import Planner, only

DEFAULT = Retries()
WILD = {"parametrization__name": "standard", "parametrization__zero_head": False, "optimizer__lr": 1e30}


class Bench:
    """One launch of the tiny study's first rung with one worker, and what was shown of it."""

    def __init__(self, planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
        self._planned, self._monkeypatch = planned, monkeypatch
        self.decisions: list[Decision] = []
        self.act: Callable[[], None] | None = None

    def plan(self, **study: Any) -> Entry:
        self.board: Board = self._planned(name="ends", ladder__depths=[1], **study)
        [trunk] = only(self.board, "trunk")
        return trunk

    def trouble(self, end: End, times: int) -> None:
        self._monkeypatch.setenv("TROUBLE", f"{end} {times}")
        self._monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "trouble"))

    def launch(self, retries: Retries = DEFAULT, **execution: Any) -> Report:
        settings = LocalSettings(workers=1, retries=retries, execution=Execution(**execution))
        return LocalLaunch(self.board, settings, self).run()

    def of(self, entry: Entry) -> list[tuple[State, End | None]]:
        return [(d.state, d.end) for d in self.decisions if d.entry is entry]

    def started(self, entry: Entry, worker: int) -> None: ...

    def progress(self, entry: Entry, step: int) -> None:
        if self.act is not None and step > 20:
            act, self.act = self.act, None
            act()

    def ended(self, decision: Decision) -> None:
        self.decisions.append(decision)

    def tick(self, elsewhere: int) -> None:
        if elsewhere and self.act is not None:
            act, self.act = self.act, None
            act()


@pytest.fixture
def bench(planned: Planner, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(planned, monkeypatch)


def done(bench: Bench) -> None:
    trunk = bench.plan()
    report = bench.launch()
    assert sorted(report.finished) == sorted(bench.board.entries) and report.exit_code == 0
    assert bench.of(trunk) == [(State.DONE, End.DONE)]


def diverged(bench: Bench) -> None:
    trunk = bench.plan(**WILD)
    report = bench.launch()
    assert sorted(report.diverged) == sorted(bench.board.entries) and not report.failed
    assert bench.of(trunk) == [(State.DIVERGED, End.DIVERGED)]


def stopped(bench: Bench) -> None:
    """By hand, on a job of ten seconds; the launch before has ended with it."""
    trunk = bench.plan(budget__tokens=[200_000])

    def interrupt() -> None:
        raise KeyboardInterrupt

    bench.act = interrupt
    assert bench.launch().stopped
    [attempt] = attempts.every(trunk.folder)
    assert attempt.facts.why is End.STOPPED and bench.board.state(trunk).state is State.INTERRUPTED


def superseded(bench: Bench) -> None:
    """Somebody else has owned the job meanwhile, and given it up."""
    trunk = bench.plan(budget__tokens=[50_000])

    def supersede() -> None:
        newer = trunk.folder.attempts / "0002"
        newer.mkdir()
        (newer / "attempt.json").write_text(json.dumps({"attempt": 2, "why": "stopped"}))

    bench.act = supersede
    assert not bench.launch().failed
    assert bench.of(trunk) == [(State.RUNNING, End.SUPERSEDED), (State.DONE, End.DONE)]
    assert [a.facts.why for a in attempts.every(trunk.folder)] == [End.SUPERSEDED, End.STOPPED, End.DONE]


def busy(bench: Bench) -> None:
    trunk = bench.plan()
    theirs = attempts.claim(trunk.folder, {})
    assert theirs is not None
    bench.act = lambda: theirs.end(End.STOPPED)
    report = bench.launch()
    assert sorted(report.finished) == sorted(bench.board.entries)
    assert [a.facts.why for a in attempts.every(trunk.folder)] == [End.STOPPED, End.DONE]


def failed(bench: Bench) -> None:
    trunk = bench.plan()
    bench.trouble(End.FAILED, 1)
    report = bench.launch()
    assert "a fault of the test" in report.failed[trunk.job.id] and len(report.blocked) == 2
    assert bench.of(trunk) == [(State.FAILED, End.FAILED)] and report.exit_code == 1


def request(bench: Bench) -> None:
    trunk = bench.plan()
    report = bench.launch(micro_batch_rows=3)
    assert "does not divide the 4 rows" in report.failed[trunk.job.id]
    assert bench.of(trunk) == [(State.FAILED, End.REQUEST)]


def storage(bench: Bench) -> None:
    """It is waited for a second, then there is room; where it is not waited for the launch ends."""
    trunk = bench.plan()
    bench.trouble(End.STORAGE, 1)
    assert sorted(bench.launch().finished) == sorted(bench.board.entries)
    assert bench.of(trunk) == [(State.INTERRUPTED, End.STORAGE), (State.DONE, End.DONE)]
    assert "disk is full" in bench.decisions[0].words and "Trying again in 1 s" in bench.decisions[0].words
    bench.plan(optimizer__lr=0.01)
    with pytest.raises(StorageError, match="disk is full"):
        bench.launch(Retries(storage=0))


def out_of_memory(bench: Bench) -> None:
    """Once: half the micro-batch will do. Twice at one step: the job has failed of what was missing."""
    trunk = bench.plan()
    bench.trouble(End.OUT_OF_MEMORY, 1)
    assert sorted(bench.launch().finished) == sorted(bench.board.entries)
    assert [a.facts.micro_batch_rows for a in attempts.every(trunk.folder)] == [4, 2]
    assert bench.of(trunk) == [(State.INTERRUPTED, End.OUT_OF_MEMORY), (State.DONE, End.DONE)]
    assert "tried again with half the micro-batch" in bench.decisions[0].words
    trunk = bench.plan(optimizer__lr=0.01)
    bench.trouble(End.OUT_OF_MEMORY, 2)
    report = bench.launch()
    assert report.failed == {trunk.job.id: "no 3 GB"}
    assert [a.facts.micro_batch_rows for a in attempts.every(trunk.folder)] == [4, 2]


def infrastructure(bench: Bench) -> None:
    trunk = bench.plan()
    bench.trouble(End.INFRASTRUCTURE, 1)
    report = bench.launch(Retries(infrastructure=0))
    assert "lost the others" in report.failed[trunk.job.id]
    assert bench.of(trunk) == [(State.FAILED, End.INFRASTRUCTURE)]


def died(bench: Bench) -> None:
    """Killed from outside in the middle of a job."""
    trunk = bench.plan(budget__tokens=[50_000])

    def kill() -> None:
        os.kill(int(attempts.every(trunk.folder)[-1].record["pid"]), signal.SIGKILL)

    bench.act = kill
    report = bench.launch()
    assert sorted(report.finished) == sorted(bench.board.entries)
    assert bench.of(trunk) == [(State.INTERRUPTED, End.DIED), (State.DONE, End.DONE)]
    assert bench.decisions[0].words == "died. signal 9; it goes on from its last checkpoint"
    first, _ = attempts.every(trunk.folder)
    assert first.facts.why is End.DIED and "signal 9" in str(first.facts.error)


@pytest.mark.parametrize("end", End)
def test_a_launch_meets_every_end(bench: Bench, end: End) -> None:
    globals()[end](bench)
