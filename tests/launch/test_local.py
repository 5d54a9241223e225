"""The local launcher with real worker processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweepctl.collect.tables import collect
from sweepctl.errors import RequestError
from sweepctl.launch import local as local_launcher
from sweepctl.launch.defaults import build_settings
from sweepctl.launch.feed import Decision
from sweepctl.launch.local import LocalLaunch, LocalSettings, visible_gpus, worker_count
from sweepctl.spec.compose import compose_launcher
from sweepctl.store import attempts, checkpoints
from sweepctl.store.sweep_jobs import SweepJobs
from tests.conftest import Planner, Undisturbed, only, run_all, run_job, tree
from tests.launch.settings import local, retries
from tests.launch.slurm.cluster import InProcess

LONG = {"budget__tokens": [50_000, 200_000]}
"""Five seconds of training: enough to be in the middle of."""


class Recorder:
    """A watcher that keeps what it is told, and can act when a job makes progress."""

    def __init__(self, act: Callable[[], Any] | None = None) -> None:
        self.order: list[str] = []
        self.decisions: list[Decision] = []
        self.act = act

    def started(self, planned_job: Any, worker: int) -> None:
        self.order.append(planned_job.job.id)

    def progress(self, planned_job: Any, step: int) -> None:
        if self.act is not None and step > 20:
            self.act()
            self.act = None

    def ended(self, decision: Decision) -> None:
        self.decisions.append(decision)

    def tick(self, elsewhere: int) -> None: ...

    def say(self, text: str) -> None: ...


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
    sweep_jobs, told_to_end = planned(name="once"), signal.getsignal(signal.SIGTERM)
    report = LocalLaunch(sweep_jobs, launcher(), Recorder()).run()
    assert signal.getsignal(signal.SIGTERM) is told_to_end
    assert sorted(report.finished) == sorted(sweep_jobs.by_id) and not report.failed
    collect(sweep_jobs)
    assert (sweep_jobs.sweep.folder / "runs.parquet").read_bytes() == undisturbed.runs(sweep_jobs)
    before = tree(sweep_jobs.sweep.workspace.root / "store")
    again = LocalLaunch(sweep_jobs, launcher(), Recorder()).run()
    assert again.finished == [] and tree(sweep_jobs.sweep.workspace.root / "store") == before


def test_a_branch_starts_while_its_trunk_trains_on(planned: Planner) -> None:
    sweep_jobs = planned(name="early", ladder__depths=[1], budget__tokens=[640, 200_000])
    watcher = Recorder()
    LocalLaunch(sweep_jobs, launcher(), watcher).run()
    [trunk], branches = only(sweep_jobs, "trunk"), only(sweep_jobs, "branch")
    first = min(branches, key=lambda e: e.job.end)
    began = attempts.every(first.folder)[0].record["started"]
    assert began < attempts.every(trunk.folder)[0].record["ended"]


def test_two_launches_at_once_train_each_job_once(planned: Planner) -> None:
    sweep_jobs = planned(
        name="twice", budget__tokens=[12_800, 25_600], grid={"axes": {"seed.init": {"seeds": 3}}}
    )
    pair = [subprocess.Popen(command("twice"), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in pair] == [0, 0]
    for planned_job in sweep_jobs.by_id.values():
        trained = [a.record.get("trained_tokens") or 0 for a in attempts.every(planned_job.folder)]
        assert sum(map(bool, trained)) == 1, (planned_job.name, trained)
        assert sum(trained) == planned_job.steps_to_train * 64


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_launcher_that_is_stopped_leaves_no_worker_and_a_saved_state(
    planned: Planner, number: signal.Signals
) -> None:
    sweep_jobs = planned(name="stopped", ladder__depths=[1], **LONG)
    process = subprocess.Popen(
        command("stopped", "--json"), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    [trunk] = only(sweep_jobs, "trunk")
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
    assert reached > 50 and sweep_jobs.state(sweep_jobs.by_id[trunk.job.id]).step == reached
    if number != signal.SIGKILL:
        assert process.returncode == 130 and json.loads(out)["stopped"]
    LocalLaunch(sweep_jobs, launcher(), Recorder()).run()
    again = attempts.every(trunk.folder)[1].record
    assert again["start_step"] == reached and again["why"] == "done"


def test_cancelling_stops_what_runs_and_a_launch_takes_it_up_again(planned: Planner) -> None:
    from sweepctl.launch.cancel import cancel

    sweep_jobs = planned(name="cancelled", ladder__depths=[1], **LONG)
    report = LocalLaunch(sweep_jobs, launcher(), Recorder(lambda: cancel(sweep_jobs))).run()
    assert sorted(report.cancelled) == sorted(sweep_jobs.by_id) and not report.finished
    [trunk] = only(sweep_jobs, "trunk")
    reached = attempts.every(trunk.folder)[0].record["end_step"]
    assert trunk.folder.wishes() == [] and checkpoints.steps(trunk.folder) == [reached]
    sweep_jobs.sweep.uncancel()
    sweep_jobs = SweepJobs(sweep_jobs.sweep, sweep_jobs.plans)
    assert sorted(LocalLaunch(sweep_jobs, launcher(), Recorder()).run().finished) == sorted(sweep_jobs.by_id)
    assert attempts.every(trunk.folder)[1].record["start_step"] == reached > 20


@pytest.mark.parametrize("shared", [True, False])
def test_a_cancelled_branch_does_not_keep_its_trunk_busy(planned: Planner, shared: bool) -> None:
    """The trunk goes on for another sweep or branch, and is not attempted for the cancelled one."""
    from sweepctl.launch.cancel import cancel, choose

    if shared:
        run_all(planned(name="theirs", ladder__depths=[1], budget__tokens=[12_800]))
    sweep_jobs = planned(name="mine", ladder__depths=[1], budget__tokens=[12_800, *LONG["budget__tokens"]])
    longest = max(only(sweep_jobs, "branch"), key=lambda e: e.job.end)
    report = LocalLaunch(
        sweep_jobs,
        launcher(),
        Recorder(lambda: cancel(sweep_jobs, choose(sweep_jobs, None if shared else [longest.job.id]))),
    ).run()
    [trunk] = only(sweep_jobs, "trunk")
    assert longest.job.id in report.cancelled and longest.job.id not in report.finished
    assert len(attempts.every(trunk.folder)) <= 3


def test_a_job_is_cancelled_before_its_worker_has_begun_it(planned: Planner) -> None:
    """The worker still imports torch when it is told to stop."""
    from sweepctl.launch.cancel import cancel

    sweep_jobs = planned(name="soon", ladder__depths=[1], **LONG)

    class Early(Recorder):
        def started(self, planned_job: Any, worker: int) -> None:
            cancel(sweep_jobs)
            launch._cancels.hasten()

    launch = LocalLaunch(sweep_jobs, launcher(), Early())
    report = launch.run()
    [trunk] = only(sweep_jobs, "trunk")
    trained = [a.record.get("trained_tokens") or 0 for a in attempts.every(trunk.folder)]
    assert sorted(report.cancelled) == sorted(sweep_jobs.by_id) and sum(trained) == 0


def test_checkpoints_that_are_gone_are_trained_again(planned: Planner) -> None:
    sweep_jobs = planned(name="gone", ladder__depths=[1])
    sweep_jobs.make_wishes()
    [trunk] = only(sweep_jobs, "trunk")
    LocalLaunch(SweepJobs(sweep_jobs.sweep, {}), launcher(), Recorder()).run()
    run_job(sweep_jobs, trunk)

    class Thief(Recorder):
        def started(self, planned_job: Any, worker: int) -> None:
            if planned_job.job.kind == "branch" and len(self.order) == 0:
                for step in checkpoints.steps(trunk.folder):
                    checkpoints.remove(checkpoints.at(trunk.folder, step))
            super().started(planned_job, worker)

    report = LocalLaunch(sweep_jobs, local(workers=1), Thief()).run()
    assert not report.blocked and not report.failed
    assert {e.job.id for e in only(sweep_jobs, "branch")} <= set(report.finished)


def test_a_job_that_cannot_work_fails_once_and_others_go_on(planned: Planner, tmp_path: Path) -> None:
    sweep_jobs = planned(name="broken", budget__tokens=[1280])
    spoiled, other = only(sweep_jobs, "trunk")
    spoiled.folder.path.mkdir(parents=True)
    (spoiled.folder.path / "job.json").write_text('{"kind": "trunk"}')
    report = LocalLaunch(sweep_jobs, launcher(), Recorder()).run()
    assert list(report.failed) == [spoiled.job.id] and "is not the science" in report.failed[spoiled.job.id]
    assert other.job.id in report.finished
    assert {e.job.id for e in only(sweep_jobs, "branch") if e.job.trunk == spoiled.job.id} <= set(
        report.blocked
    )
    assert len(attempts.every(spoiled.folder)) == 1


def test_a_job_that_always_kills_its_process_is_given_up(planned: Planner, monkeypatch: Any) -> None:
    """The process dies right after its claim, every time."""
    sweep_jobs = planned(name="dying", ladder__depths=[1], budget__tokens=[1280])
    faults = sweep_jobs.sweep.workspace.root / "faults"
    for name in ("taken", "dead"):
        (faults / name).mkdir(parents=True)
    for i in range(9):
        (faults / f"worker-{i}").write_text("started 0")
    monkeypatch.setenv("FAULTS", str(faults))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "faults"))
    report = LocalLaunch(sweep_jobs, local(workers=1, retries=retries(died=2)), Recorder()).run()
    [trunk] = only(sweep_jobs, "trunk")
    assert "died 3 times" in report.failed[trunk.job.id] and "signal 9" in report.failed[trunk.job.id]


def test_workers_by_cores_or_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    assert worker_count(local(threads=1), 0) == cores
    assert worker_count(local(threads=10 * cores), 0) == 1
    assert worker_count(local(per_gpu=3), 4) == 12
    assert worker_count(local(), 4) == 4 and worker_count(local(workers=3), 4) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_small_rungs_share_a_gpu_and_a_large_one_has_it_alone(
    planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/nowhere")
    monkeypatch.setattr(local_launcher, "Pool", InProcess)  # on the CPU, whatever they are promised
    sweep_jobs = planned(name="shared", grid={"axes": {"seed.init": [0, 1]}})
    large = sweep_jobs.rungs[-1]
    overrides = [f"rungs.{large}.execution.per_gpu=1", "execution.per_gpu=2"]
    settings = build_settings(LocalSettings, compose_launcher("local", overrides))
    watcher = Beside()
    assert LocalLaunch(sweep_jobs, settings, watcher).run().exit_code == 0
    assert "take turns" in watcher.said[0] and len(watcher.said) == 1
    assert watcher.most == 2 and not any(large in beside for beside in watcher.crowds)
    for planned_job in sweep_jobs.by_id.values():
        [attempt, *_] = attempts.every(planned_job.folder)
        assert attempt.facts.execution["per_gpu"] == (1 if planned_job.name.startswith(large) else 2)
    for own in ({"per_gpu": 2}, {"execution": {"keep": "none"}}, {"execution": {"y": 1}}):
        with pytest.raises(RequestError, match=r"rungs\.x"):
            replace(settings, rungs={"x": own})


class Beside(Recorder):
    """Keeps which jobs were at work at once."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.crowds: list[set[str]] = []
        self.most = 0
        self._now: dict[str, str] = {}

    def say(self, text: str) -> None:
        self.said.append(text)

    def started(self, planned_job: Any, worker: int) -> None:
        self._now[planned_job.job.id] = planned_job.plan.rung_of(planned_job.job).name
        self.most = max(self.most, len(self._now))
        if len(self._now) > 1:
            self.crowds.append(set(self._now.values()))

    def ended(self, decision: Decision) -> None:
        self._now.pop(decision.planned_job.job.id, None)


def test_status_changes_nothing_and_doubts_nobody(planned: Planner) -> None:
    from sweepctl.launch.status import status

    sweep_jobs = planned(name="watched")
    sweep_jobs.make_wishes()
    before = tree(sweep_jobs.sweep.workspace.root)
    assert {state.state for _, state in status(sweep_jobs).jobs} == {"ready", "waiting"}
    run_all(sweep_jobs)
    [silent, *_] = only(sweep_jobs, "branch")
    (silent.folder.path / "result.json").unlink()
    last = attempts.newest(silent.folder)
    assert last is not None
    del last.record["why"]
    last.update(host="another-host", boot="another-boot")
    after = tree(sweep_jobs.sweep.workspace.root)
    sweep = status(sweep_jobs)
    assert [e.job.id for e, _ in sweep.in_state("running")] == [silent.job.id]
    assert tree(sweep_jobs.sweep.workspace.root) == after != before
