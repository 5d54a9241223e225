"""The local launcher with real worker processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweepctl.collect.tables import collect
from sweepctl.launch.feed import Decision
from sweepctl.launch.local import LocalLaunch, LocalSettings, visible_gpus, worker_count
from sweepctl.store import attempts, checkpoints
from sweepctl.store.board import Board
from tests.conftest import Planner, Undisturbed, only, run_all, run_job, tree
from tests.launch.settings import local, retries

LONG = {"budget__tokens": [50_000, 200_000]}
"""Five seconds of training: enough to be in the middle of."""


class Seen:
    """A watcher that keeps what it is told, and can act when a job makes progress."""

    def __init__(self, act: Callable[[], Any] | None = None) -> None:
        self.order: list[str] = []
        self.decisions: list[Decision] = []
        self.act = act

    def started(self, entry: Any, worker: int) -> None:
        self.order.append(entry.job.id)

    def progress(self, entry: Any, step: int) -> None:
        if self.act is not None and step > 20:
            self.act()
            self.act = None

    def ended(self, decision: Decision) -> None:
        self.decisions.append(decision)

    def tick(self, elsewhere: int) -> None: ...


def launcher(**execution: Any) -> LocalSettings:
    return local(workers=2, **{"log_every_steps": 50, **execution})


def command(name: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "sweepctl", "launch", name, "workers=2", *more]


def gone(pid: int, patience_s: float) -> bool:
    """Wait until a process that is not our child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], patience_s)[0])
    finally:
        os.close(descriptor)


def test_everything_is_trained_once_and_asking_again_trains_nothing(
    planned: Planner, undisturbed: Undisturbed
) -> None:
    board = planned(name="once")
    report = LocalLaunch(board, launcher(), Seen()).run()
    assert sorted(report.finished) == sorted(board.entries) and not report.failed
    collect(board)
    assert (board.sweep.folder / "runs.parquet").read_bytes() == undisturbed.runs(board)
    before = tree(board.sweep.workspace.root / "store")
    again = LocalLaunch(board, launcher(), Seen()).run()
    assert again.finished == [] and tree(board.sweep.workspace.root / "store") == before


def test_a_branch_starts_while_its_trunk_trains_on(planned: Planner) -> None:
    board = planned(name="early", ladder__depths=[1], budget__tokens=[640, 200_000])
    seen = Seen()
    LocalLaunch(board, launcher(), seen).run()
    [trunk], branches = only(board, "trunk"), only(board, "branch")
    first = min(branches, key=lambda e: e.job.end)
    began = attempts.every(first.folder)[0].record["started"]
    assert began < attempts.every(trunk.folder)[0].record["ended"]


def test_two_launches_at_once_train_each_job_once(planned: Planner) -> None:
    board = planned(name="twice", budget__tokens=[12_800, 25_600], grid={"axes": {"seed.init": {"seeds": 3}}})
    pair = [subprocess.Popen(command("twice"), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in pair] == [0, 0]
    for entry in board.entries.values():
        trained = [a.record.get("trained_tokens") or 0 for a in attempts.every(entry.folder)]
        assert sum(map(bool, trained)) == 1, (entry.name, trained)
        assert sum(trained) == entry.steps_to_train * 64


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_launcher_that_is_stopped_leaves_no_worker_and_a_saved_state(
    planned: Planner, number: signal.Signals
) -> None:
    board = planned(name="stopped", ladder__depths=[1], **LONG)
    process = subprocess.Popen(
        command("stopped", "--json"), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    [trunk] = only(board, "trunk")
    while not (
        attempts.newest(trunk.folder) and attempts.newest(trunk.folder).progress().get("step", 0) > 50
    ):  # type: ignore[union-attr]
        assert process.poll() is None
        select.select([], [], [], 0.05)
    worker = int(attempts.every(trunk.folder)[0].record["pid"])
    process.send_signal(number)
    out, _ = process.communicate()
    assert gone(worker, 60)
    [attempt] = attempts.every(trunk.folder)
    assert attempt.record["why"] == "stopped"
    reached = attempt.record["end_step"]
    assert reached > 50 and board.state(board.entries[trunk.job.id]).step == reached
    if number != signal.SIGKILL:
        assert process.returncode == 130 and json.loads(out)["stopped"]
    LocalLaunch(board, launcher(), Seen()).run()
    again = attempts.every(trunk.folder)[1].record
    assert again["start_step"] == reached and again["why"] == "done"


def test_cancelling_stops_what_runs_and_a_launch_takes_it_up_again(planned: Planner) -> None:
    from sweepctl.launch.cancel import cancel

    board = planned(name="cancelled", ladder__depths=[1], **LONG)
    report = LocalLaunch(board, launcher(), Seen(lambda: cancel(board))).run()
    assert sorted(report.cancelled) == sorted(board.entries) and not report.finished
    [trunk] = only(board, "trunk")
    reached = attempts.every(trunk.folder)[0].record["end_step"]
    assert trunk.folder.wishes() == [] and checkpoints.steps(trunk.folder) == [reached]
    board.sweep.uncancel()
    board = Board(board.sweep, board.plans)
    assert sorted(LocalLaunch(board, launcher(), Seen()).run().finished) == sorted(board.entries)
    assert attempts.every(trunk.folder)[1].record["start_step"] == reached > 20


@pytest.mark.parametrize("shared", [True, False])
def test_a_cancelled_branch_does_not_keep_its_trunk_busy(planned: Planner, shared: bool) -> None:
    """The trunk goes on for another sweep or branch, and is not attempted for the cancelled one."""
    from sweepctl.launch.cancel import cancel, choose

    if shared:
        run_all(planned(name="theirs", ladder__depths=[1], budget__tokens=[12_800]))
    board = planned(name="mine", ladder__depths=[1], budget__tokens=[12_800, *LONG["budget__tokens"]])
    longest = max(only(board, "branch"), key=lambda e: e.job.end)
    report = LocalLaunch(
        board, launcher(), Seen(lambda: cancel(board, choose(board, None if shared else [longest.job.id])))
    ).run()
    [trunk] = only(board, "trunk")
    assert longest.job.id in report.cancelled and longest.job.id not in report.finished
    assert len(attempts.every(trunk.folder)) <= 3


def test_a_job_is_cancelled_before_its_worker_has_begun_it(planned: Planner) -> None:
    """The worker still imports torch when it is told to stop."""
    from sweepctl.launch.cancel import cancel

    board = planned(name="soon", ladder__depths=[1], **LONG)

    class Early(Seen):
        def started(self, entry: Any, worker: int) -> None:
            cancel(board)
            launch._cancels.hasten()

    launch = LocalLaunch(board, launcher(), Early())
    report = launch.run()
    [trunk] = only(board, "trunk")
    trained = [a.record.get("trained_tokens") or 0 for a in attempts.every(trunk.folder)]
    assert sorted(report.cancelled) == sorted(board.entries) and sum(trained) == 0


def test_checkpoints_that_are_gone_are_trained_again(planned: Planner) -> None:
    board = planned(name="gone", ladder__depths=[1])
    board.make_wishes()
    [trunk] = only(board, "trunk")
    LocalLaunch(Board(board.sweep, {}), launcher(), Seen()).run()
    run_job(board, trunk)

    class Thief(Seen):
        def started(self, entry: Any, worker: int) -> None:
            if entry.job.kind == "branch" and len(self.order) == 0:
                for step in checkpoints.steps(trunk.folder):
                    checkpoints.remove(checkpoints.at(trunk.folder, step))
            super().started(entry, worker)

    report = LocalLaunch(board, local(workers=1), Thief()).run()
    assert not report.blocked and not report.failed
    assert {e.job.id for e in only(board, "branch")} <= set(report.finished)


def test_a_job_that_cannot_work_fails_once_and_others_go_on(planned: Planner, tmp_path: Path) -> None:
    board = planned(name="broken", budget__tokens=[1280])
    spoiled, other = only(board, "trunk")
    spoiled.folder.path.mkdir(parents=True)
    (spoiled.folder.path / "job.json").write_text('{"kind": "trunk"}')
    report = LocalLaunch(board, launcher(), Seen()).run()
    assert list(report.failed) == [spoiled.job.id] and "is not the science" in report.failed[spoiled.job.id]
    assert other.job.id in report.finished
    assert {e.job.id for e in only(board, "branch") if e.job.trunk == spoiled.job.id} <= set(report.blocked)
    assert len(attempts.every(spoiled.folder)) == 1


def test_a_job_that_always_kills_its_process_is_given_up(planned: Planner, monkeypatch: Any) -> None:
    """The process dies right after its claim, every time."""
    board = planned(name="dying", ladder__depths=[1], budget__tokens=[1280])
    faults = board.sweep.workspace.root / "faults"
    for name in ("taken", "dead"):
        (faults / name).mkdir(parents=True)
    for i in range(9):
        (faults / f"worker-{i}").write_text("started 0")
    monkeypatch.setenv("FAULTS", str(faults))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "faults"))
    report = LocalLaunch(board, local(workers=1, retries=retries(died=2)), Seen()).run()
    [trunk] = only(board, "trunk")
    assert "died 3 times" in report.failed[trunk.job.id] and "signal 9" in report.failed[trunk.job.id]


def test_workers_by_cores_or_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    assert worker_count(local(threads=1), 0) == cores
    assert worker_count(local(threads=10 * cores), 0) == 1
    assert worker_count(local(), 4) == 4 and worker_count(local(workers=3), 4) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_status_changes_nothing_and_doubts_nobody(planned: Planner) -> None:
    from sweepctl.launch.status import status

    board = planned(name="watched")
    board.make_wishes()
    before = tree(board.sweep.workspace.root)
    assert {state.state for _, state in status(board).jobs} == {"ready", "waiting"}
    run_all(board)
    [one, *_] = only(board, "branch")
    (one.folder.path / "result.json").unlink()
    last = attempts.newest(one.folder)
    assert last is not None
    del last.record["why"]
    last.update(host="another-host", boot="another-boot")
    after = tree(board.sweep.workspace.root)
    found = status(board)
    assert [e.job.id for e, _ in found.in_state("running")] == [one.job.id]
    assert tree(board.sweep.workspace.root) == after != before
