"""A sweep in the middle of things: states by kind, tokens, times, and what is wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from sweepctl.launch import clean
from sweepctl.launch.cancel import cancel, choose
from sweepctl.launch.slurm.commands import as_task
from sweepctl.launch.status import SweepStatus, full_status, status
from sweepctl.store import attempts, checkpoints
from sweepctl.store.ends import End
from sweepctl.store.result import Result
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from tests.conftest import Planner, only, tree


def begin(planned_job: PlannedJob, **facts: Any) -> attempts.Attempt:
    attempt = attempts.claim(planned_job.folder, {"launcher": "test", **facts})
    assert attempt is not None
    return attempt


def finish(planned_job: PlannedJob, tokens: int = 1000, seconds: float = 36.0) -> None:
    begin(planned_job).end("done", trained_tokens=tokens, train_s=seconds)
    planned_job.folder.write_result(Result(End.DONE, planned_job.job.end))


def reach(trunk: PlannedJob, step: int) -> None:
    (trunk.folder.checkpoints / f"step-{step:08d}").mkdir(parents=True)


def state_of(sweep: SweepStatus, planned_job: PlannedJob) -> str:
    return next(state.state for counted, state in sweep.jobs if counted is planned_job)


@pytest.fixture
def midway(planned: Planner, tmp_path: Path) -> tuple[SweepJobs, list[PlannedJob], list[PlannedJob]]:
    """The first trunk is done, one of its branches too, the other failed with nothing but a log; the second
    trunk runs."""
    sweep_jobs = planned(name="midway")
    (first, second), branches = only(sweep_jobs, "trunk"), only(sweep_jobs, "branch")
    done, failed = (b for b in branches if b.job.trunk == first.job.id)
    begin(first).end("done", trained_tokens=1000, train_s=36.0)
    reach(first, first.job.end)
    finish(done)
    log = tmp_path / "process.log"
    log.write_text("loading\nslurmstepd: error: Detected 1 oom_kill event\n\n")
    begin(failed, log=str(log)).end("out_of_memory")
    running = begin(second)
    running.update(start_tokens=0)
    running.beat(10, 640)
    running.metrics.write_text('{"step": 10, "tokens_per_s": 64}\n')
    return sweep_jobs, [first, second], [done, failed, *(b for b in branches if b.job.trunk == second.job.id)]


def test_work_of_an_older_plan_is_shown_and_can_be_stopped(planned: Planner) -> None:
    old = planned(name="mine", budget__tokens=[1280, 256_000], ladder__depths=[1])
    old.make_wishes()
    trunk, [short, long] = only(old, "trunk")[0], only(old, "branch")
    reach(trunk, short.job.cut)
    attempt = begin(short)
    new = planned(name="mine", budget__tokens=[1280], ladder__depths=[1], schedule__decay={"fraction": 0.3})
    sweep = full_status(new)
    assert [planned_job.job.id for planned_job in sweep.older] == [short.job.id]
    assert any(f"are still trained ({short.job.id}" in note for note in sweep.notes)
    assert clean.find(new.sweep, "all").busy == [short.job.id]
    choice = cancel(new)
    assert short.job.id in choice.cancelled and long.job.id not in choice.cancelled
    assert short.job.id in new.sweep.cancelled()
    assert [wish.step for wish in trunk.folder.wishes()] == [short.job.cut]  # what is saved stays
    attempt.end(End.STOPPED)
    assert full_status(new).older == [] and clean.find(new.sweep, "all").busy == []


def test_single_jobs_of_an_older_plan_can_be_stopped(planned: Planner) -> None:
    old = planned(name="mine", ladder__depths=[1])
    first, second = only(old, "branch")
    begin(first), begin(second)
    new = planned(name="mine", ladder__depths=[1], optimizer__lr=0.03)
    assert choose(new, [first.job.id]).cancelled == [first.job.id]
    assert set(choose(new, states=["running"]).cancelled) == {first.job.id, second.job.id}
    planned(name="theirs", ladder__depths=[1])
    assert full_status(new).older == [] and choose(new, states=["running"]).cancelled == []


def test_an_older_plan_that_cannot_be_read_stops_nobody(planned: Planner) -> None:
    old = planned(name="mine", ladder__depths=[1])
    new = planned(name="mine", ladder__depths=[1], optimizer__lr=0.03)
    (new.sweep.folder / "plans" / f"{next(iter(old.plans.values())).hash}.json").write_text("{}")
    assert full_status(new).older == [] and len(choose(new).cancelled) == len(new.by_id)


def test_everything_is_counted(midway: Any) -> None:
    sweep_jobs, (first, second), (done, failed, *others) = midway
    sweep = status(sweep_jobs)
    assert {kind: dict(row.states) for kind, row in sweep.kinds.items()} == {
        "trunk": {"done": 1, "running": 1},
        "branch": {"done": 1, "failed": 1, "waiting": 2},
    }
    assert sweep.kinds["branch"].failures == {"out_of_memory": 1} and not sweep.complete
    wanted = sum(e.steps_to_train for e in sweep_jobs.by_id.values()) * 64
    assert sweep.tokens == wanted
    assert sweep.tokens_done == (first.job.end + done.steps_to_train + 10) * 64
    assert sweep.train_s == 72 and 72 < sweep.spent_s < 90
    speed = 64 * second.plan.counts(second.job).exact_flops_per_token
    left = second.flops * (1 - 10 / second.job.end)
    assert sweep.eta_s == pytest.approx((left + sum(e.flops for e in others)) / speed)
    assert sweep.left_s is not None and sweep.left_s > 0
    [problem] = sweep.problems
    assert (problem.planned_job, problem.failure, problem.waiting) == (failed, "out_of_memory", 0)
    assert problem.line == "slurmstepd: error: Detected 1 oom_kill event"


def test_a_running_attempt_that_says_nothing_is_told(midway: Any) -> None:
    sweep_jobs, (_, second), _ = midway
    heartbeat = second.folder.attempts / "0001" / "heartbeat.json"
    os.utime(heartbeat, (time.time() - 600, time.time() - 600))
    sweep = status(sweep_jobs)
    assert state_of(sweep, second) == "running" and sweep.eta_s is None
    assert [(problem.what, problem.planned_job) for problem in sweep.problems] == [
        ("failed", sweep.problems[0].planned_job),
        ("silent", second),
    ]
    assert sweep.problems[1].silent_s == pytest.approx(600, abs=30)


def test_branches_that_wait_for_a_failed_trunk_are_counted_and_not_awaited(planned: Planner) -> None:
    sweep_jobs = planned(name="stuck", ladder__depths=[1])
    [trunk] = only(sweep_jobs, "trunk")
    begin(trunk).end("failed", error="Traceback\n  ValueError: no\n")
    sweep = status(sweep_jobs)
    [problem] = sweep.problems
    assert (problem.waiting, problem.line, problem.failure) == (2, "ValueError: no", "failed")
    assert sweep.eta_s is None and sweep.left_s is None


def test_a_damaged_checkpoint_that_was_set_aside_is_told(planned: Planner) -> None:
    sweep_jobs = planned(name="damaged", ladder__depths=[1])
    [trunk] = only(sweep_jobs, "trunk")
    reach(trunk, 10)
    assert not any("set aside" in note for note in full_status(sweep_jobs).notes)
    checkpoints.set_aside(checkpoints.at(trunk.folder, 10))
    [note] = full_status(sweep_jobs).notes
    assert note.startswith("Damaged and set aside: 1 of the checkpoints") and "damaged-step-00000010" in note


def test_the_queue_is_told_and_nothing_is_written(midway: Any) -> None:
    sweep_jobs, (_, second), (_, failed, *others) = midway
    tasks = {
        failed.job.id: as_task("7_1", "PENDING", "Resources"),
        second.job.id: as_task("7_2", "RUNNING"),
        others[0].job.id: as_task("7_3", "PENDING", "JobHeldUser"),
    }
    before = tree(sweep_jobs.sweep.workspace.root)
    sweep = status(sweep_jobs, tasks)
    assert state_of(sweep, failed) == "queued" and sweep.kinds["branch"].states["queued"] == 1
    assert state_of(sweep, second) == "running" and state_of(sweep, others[0]) == "waiting"
    assert not sweep.problems and sweep.queue == tasks
    assert tree(sweep_jobs.sweep.workspace.root) == before


def test_a_task_that_runs_vouches_for_an_attempt_that_looks_dead(midway: Any) -> None:
    sweep_jobs, (_, second), _ = midway
    attempts.newest(second.folder).update(host="elsewhere", boot="other")
    for file in (second.folder.attempts / "0001").iterdir():
        os.utime(file, (time.time() - 4000, time.time() - 4000))
    assert state_of(status(sweep_jobs), second) == "interrupted"
    assert state_of(status(sweep_jobs, {second.job.id: as_task("7_2", "A_NEW_STATE")}), second) == "running"


def test_a_cancelled_job_is_cancelled_whatever_is_queued(planned: Planner) -> None:
    sweep_jobs = planned(name="ended")
    [first, second] = only(sweep_jobs, "trunk")
    sweep_jobs.sweep.mark_cancelled([first.job.id, second.job.id])
    sweep = status(sweep_jobs, {first.job.id: as_task("7_1", "PENDING")})
    assert sweep.kinds["trunk"].states == {"cancelled": 2} and sweep.eta_s is None


def test_a_device_that_is_a_gpu_is_called_one(planned: Planner) -> None:
    sweep_jobs = planned(name="device")
    [first, _] = only(sweep_jobs, "trunk")
    begin(first).end("stopped", device="AMD EPYC", train_s=1.0)
    assert not status(sweep_jobs).on_gpus
    begin(first).end("stopped", device="NVIDIA H100 80GB HBM3", train_s=1.0, world_size=8)
    sweep = status(sweep_jobs)
    assert sweep.on_gpus and sweep.train_s == 2 and sweep.spent_s == 9


def test_the_kind_of_a_device_is_what_its_attempt_says_whatever_the_name(planned: Planner) -> None:
    sweep_jobs = planned(name="device")
    [first, _] = only(sweep_jobs, "trunk")
    begin(first).end("stopped", device="NVIDIA Grace", device_kind="cpu")
    assert not status(sweep_jobs).on_gpus
    begin(first).end("stopped", device="Some accelerator", device_kind="rocm")
    assert status(sweep_jobs).on_gpus
