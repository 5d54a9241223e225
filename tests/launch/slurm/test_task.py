"""A task at work: which job is next, when it ends, and what becomes of a job that does not end well."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from sweepctl.errors import RequestError, StorageError
from sweepctl.launch import feed
from sweepctl.launch.cancel import cancel, choose
from sweepctl.launch.slurm import patience, supervisor
from sweepctl.launch.slurm.records import Records, begin_task
from sweepctl.launch.slurm.restarts import REFUSED
from sweepctl.store import attempts, checkpoints
from sweepctl.store.ends import End
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from tests.conftest import Planner, Undisturbed, only

from .cluster import Cluster, Fate, InProcess, Killed, dies_at_once, meets, train, until_told
from .conftest import launch, same

ONE_DEPTH: dict[str, Any] = {"ladder__depths": [1]}
"""A trunk and two branches."""
SOON = 121 / 60
"""Minutes to a time limit that leave a second: a task saves two minutes ahead of it."""


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task looks at what others did whenever it may, and its worker at every step whether it is to stop."""
    from sweepctl.train import loop

    monkeypatch.setattr(supervisor, "LOOK_S", 0.0)
    monkeypatch.setattr(supervisor, "POLL_S", 0.01)
    monkeypatch.setattr(loop, "GLANCE_S", 0.0)


def ends(planned_job: PlannedJob) -> list[End | None]:
    return [attempt.facts.why for attempt in attempts.every(planned_job.folder)]


def trunk_of(sweep_jobs: SweepJobs) -> PlannedJob:
    [trunk] = only(sweep_jobs, "trunk")
    return trunk


def folder_of(cluster: Cluster, name: str) -> Path:
    return Path(cluster.tasks[name].folder)


def array_of(cluster: Cluster, name: str) -> str:
    return str(folder_of(cluster, name).name)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_sweep_runs_to_its_end_by_itself(
    cluster: Cluster, planned: Planner, undisturbed: Undisturbed
) -> None:
    sweep_jobs = planned(name="whole", **ONE_DEPTH, grid={"axes": {"seed.init": [0, 1]}})
    submitted = launch(sweep_jobs)
    assert submitted.submitted == 6 == len(cluster.tasks) and len(cluster.held()) == 4
    cluster.run_all()
    assert not list(sweep_jobs.unfinished()) and cluster.tasks == {}
    assert same(sweep_jobs, undisturbed)
    assert launch(sweep_jobs).submitted == 0


def test_a_task_goes_on_with_what_can_start(
    cluster: Cluster, planned: Planner, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first trains everything; the others find nothing to do."""
    sweep_jobs = planned(name="onward", **ONE_DEPTH)
    launch(sweep_jobs)
    [first] = cluster.waiting()
    assert cluster.run(first) == 0 and not list(sweep_jobs.unfinished())
    log = capsys.readouterr().out
    assert "nothing left to start" in log and "release" in log
    assert not cluster.held()
    cluster.run_all()
    assert all(ends(planned_job) == [End.DONE] for planned_job in sweep_jobs.by_id.values())


def test_a_task_that_is_told_to_end_saves_and_goes_on_after_its_requeue(
    cluster: Cluster, planned: Planner, undisturbed: Undisturbed
) -> None:
    """By preemption: Slurm has requeued it, and tells its process."""
    sweep_jobs = planned(name="told", **ONE_DEPTH)
    launch(sweep_jobs)
    [name] = cluster.waiting()
    assert cluster.run(name, until_told(lambda: (cluster.requeue(name), terminate()))) == 1
    trunk = trunk_of(sweep_jobs)
    [stopped] = attempts.every(trunk.folder)
    assert stopped.facts.why is End.STOPPED and cluster.tasks[name].restart == 1
    cluster.run_all()
    assert ends(trunk) == [End.STOPPED, End.DONE]
    assert attempts.newest(trunk.folder).facts.start_step == stopped.facts.end_step  # type: ignore[union-attr]
    assert same(sweep_jobs, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGURG])
def test_a_preempted_task_does_not_wait_for_the_end_of_its_grace(
    cluster: Cluster, planned: Planner, undisturbed: Undisturbed, number: signal.Signals
) -> None:
    """Slurm has told it, with the signal of the site's choice, and lets it run. A cancel stays one."""
    sweep_jobs = planned(name="grace", **ONE_DEPTH)
    launch(sweep_jobs)
    [name] = cluster.waiting()
    assert cluster.run(name, until_told(lambda: os.kill(os.getpid(), number))) == 1
    assert cluster.questions.count(("scontrol", "requeue", name)) == 1 == cluster.tasks[name].restart

    def cancelled() -> None:
        cluster.tasks[name].state = "COMPLETING"
        os.kill(os.getpid(), number)

    assert cluster.run(name, until_told(cancelled)) == 1
    assert cluster.questions.count(("scontrol", "requeue", name)) == 1
    launch(sweep_jobs)
    cluster.run_all()
    assert same(sweep_jobs, undisturbed)


def test_a_file_system_that_is_away_for_a_while_ends_no_task(
    cluster: Cluster, planned: Planner, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that begins nor one that looks for its next job."""
    monkeypatch.setattr(patience, "REST_MAX_S", 0.0)
    sweep_jobs = planned(name="eio", **ONE_DEPTH)
    launch(sweep_jobs)
    [name] = cluster.waiting()
    refusals = {method: iter([errno.EIO, errno.ESTALE]) for method in ("own_array", "arrays", "order")}

    def refusing(act: Any, codes: Any) -> Any:
        def refuse(*arguments: Any) -> Any:
            for code in codes:
                raise OSError(code, os.strerror(code))
            return act(*arguments)

        return refuse

    for method, codes in refusals.items():
        monkeypatch.setattr(Records, method, refusing(getattr(Records, method), codes))
    assert cluster.run(name) == 0
    assert [next(codes, None) for codes in refusals.values()] == [None] * 3
    cluster.run_all()
    assert same(sweep_jobs, undisturbed)


def test_a_task_saves_ahead_of_its_time_limit_and_requeues_itself(
    cluster: Cluster, planned: Planner, undisturbed: Undisturbed
) -> None:
    sweep_jobs = planned(name="limit", **ONE_DEPTH)
    launch(sweep_jobs)
    [name] = cluster.waiting()
    assert cluster.run(name, until_told(), minutes=SOON) == 1
    assert ends(trunk_of(sweep_jobs)) == [End.STOPPED]
    assert cluster.tasks[name].restart == 1 and ("scontrol", "requeue", name) in cluster.questions
    cluster.run_all()
    assert same(sweep_jobs, undisturbed)


def test_without_commands_on_its_node_a_task_just_ends_at_its_limit(
    cluster: Cluster, planned: Planner
) -> None:
    sweep_jobs = planned(name="plain", **ONE_DEPTH)
    launch(sweep_jobs, "commands_on_nodes=false")
    name = cluster.waiting()[0]
    asked = len(cluster.questions)
    assert cluster.run(name, until_told(), minutes=SOON) == 0
    assert name not in cluster.tasks and len(cluster.questions) == asked


def test_no_time_to_get_anywhere_is_a_failure_that_says_so(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="standstill", **ONE_DEPTH)
    launch(sweep_jobs)
    [name] = cluster.waiting()
    trunk = trunk_of(sweep_jobs)
    for _ in range(supervisor.STANDSTILLS):
        number = len(attempts.every(trunk.folder))
        attempt = attempts.claim(
            trunk.folder,
            {"array": array_of(cluster, name), "scheduler_id": name, "restart": number, "start_step": 7},
        )
        assert attempt is not None
        attempt.end(End.STOPPED, end_step=7)
    (folder_of(cluster, name) / "tasks" / "0.job").write_text(trunk.job.id)
    assert cluster.run(name, minutes=1.0) == 1
    last = attempts.newest(trunk.folder)
    assert last is not None and last.facts.why is End.REQUEST and "time_min" in (last.facts.error or "")
    assert name not in cluster.tasks


def test_a_cancelled_job_is_saved_and_the_task_goes_on_with_another(
    cluster: Cluster, planned: Planner
) -> None:
    sweep_jobs = planned(name="cancelled", **ONE_DEPTH, grid={"axes": {"seed.init": [0, 1]}})
    launch(sweep_jobs)
    first, second = only(sweep_jobs, "trunk")
    cancelled = {first.job.id, *(branch.job.id for branch in sweep_jobs.branches[first.job.id])}
    withdraw = until_told(lambda: cancel(sweep_jobs, choose(sweep_jobs, [first.job.id])))
    assert cluster.run(cluster.waiting()[0], withdraw) == 0
    assert {planned_job.job.id for planned_job in sweep_jobs.unfinished()} == cancelled
    [attempt] = attempts.every(first.folder)
    assert 0 < attempt.facts.end_step < max(branch.job.cut for branch in sweep_jobs.branches[first.job.id])
    assert ends(second) == [End.DONE]


def test_a_task_that_was_started_anew_elsewhere_ends_here(
    cluster: Cluster, planned: Planner, undisturbed: Undisturbed
) -> None:
    """Its node was given up, and its process lives: what it trains is the newer restart's."""
    sweep_jobs = planned(name="split", **ONE_DEPTH)
    launch(sweep_jobs)
    [name] = cluster.waiting()
    folder = folder_of(cluster, name)
    assert cluster.run(name, until_told(lambda: begin_task(folder, 0, 1))) == 0
    assert ends(trunk_of(sweep_jobs)) == [End.STOPPED]
    launch(sweep_jobs)
    cluster.run_all()
    assert same(sweep_jobs, undisturbed)


def test_a_worker_that_dies_is_replaced(cluster: Cluster, planned: Planner, undisturbed: Undisturbed) -> None:
    sweep_jobs = planned(name="dies", **ONE_DEPTH)
    launch(sweep_jobs)
    assert cluster.run(cluster.waiting()[0], meets(Killed())) == 0
    assert ends(trunk_of(sweep_jobs)) == [End.DIED, End.DONE]
    assert same(sweep_jobs, undisturbed)


def test_a_job_whose_process_keeps_dying_at_one_place_is_given_up(cluster: Cluster, planned: Planner) -> None:
    """The place is the checkpoint that an attempt starts from. A launch gives it a new start."""
    sweep_jobs = planned(name="keeps", **ONE_DEPTH)
    launch(sweep_jobs, "retries.died=1")
    trunk = trunk_of(sweep_jobs)

    def at_its_first_step(manifest: Any, stop: Any, report: Any) -> Any:
        died = meets(Killed())(manifest, stop, report)
        for step in checkpoints.steps(trunk.folder):
            checkpoints.remove(checkpoints.at(trunk.folder, step))
        return died

    assert cluster.run(cluster.waiting()[0], at_its_first_step, at_its_first_step) == 1
    last = attempts.newest(trunk.folder)
    assert ends(trunk) == [End.DIED, End.DIED] and last is not None
    assert "died 2 times at step 0 (signal 9)" in (last.facts.error or "")
    assert launch(sweep_jobs, retry="none").exhausted == [trunk.job.id]
    launch(sweep_jobs)
    cluster.run_all()
    assert not list(sweep_jobs.unfinished())


def test_where_workers_end_before_they_begin_the_task_ends(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="stillborn", **ONE_DEPTH)
    launch(sweep_jobs, "retries.died=1")
    assert cluster.run(cluster.waiting()[0], dies_at_once, dies_at_once) == 1
    assert attempts.newest(trunk_of(sweep_jobs).folder) is None


def test_what_runs_out_of_memory_is_tried_again_with_half_the_micro_batch(
    cluster: Cluster, planned: Planner
) -> None:
    sweep_jobs = planned(name="memory", **ONE_DEPTH)
    launch(sweep_jobs)
    cluster.run(cluster.waiting()[0], meets(MemoryError("no memory")))
    first, second = attempts.every(trunk_of(sweep_jobs).folder)
    assert (first.facts.why, second.facts.why) == (End.OUT_OF_MEMORY, End.DONE)
    rows = first.facts.micro_batch_rows
    assert rows == 4 and second.facts.micro_batch_rows == 2
    assert not list(sweep_jobs.unfinished())


def test_a_broken_gpu_ends_the_task_which_goes_on_elsewhere(
    cluster: Cluster, planned: Planner, undisturbed: Undisturbed
) -> None:
    """By its script, which sees that it ended by no decision of its own."""
    sweep_jobs = planned(name="ecc", **ONE_DEPTH)
    launch(sweep_jobs)
    [name] = cluster.waiting()
    folder = folder_of(cluster, name)
    broken = RuntimeError("CUDA error: uncorrectable ECC error encountered\nCompile with ...")
    assert cluster.run(name, meets(broken)) == 1
    assert not list((folder / "tasks").glob("*.over"))
    trunk = trunk_of(sweep_jobs)
    [attempt] = attempts.every(trunk.folder)
    assert attempt.facts.why is End.INFRASTRUCTURE
    assert attempt.facts.error == "CUDA error: uncorrectable ECC error encountered"
    launch(sweep_jobs)
    cluster.run_all()
    assert ends(trunk) == [End.INFRASTRUCTURE, End.DONE] and same(sweep_jobs, undisturbed)


def test_a_python_error_is_not_repeated_until_a_launch_says_so(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="error", **ONE_DEPTH)
    launch(sweep_jobs)
    trunk = trunk_of(sweep_jobs)
    assert cluster.run(cluster.waiting()[0], meets(RuntimeError("a fault of the test"))) == 1
    last = attempts.newest(trunk.folder)
    assert ends(trunk) == [End.FAILED] and last is not None and "a fault of the test" in str(last.facts.error)
    assert launch(sweep_jobs, retry="none").exhausted == [trunk.job.id]
    launch(sweep_jobs)
    cluster.run_all()
    assert ends(trunk) == [End.FAILED, End.DONE] and not list(sweep_jobs.unfinished())


def test_a_full_disk_is_waited_for_until_its_retries_are_used_up(
    cluster: Cluster, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "REST_MAX_S", 0.0)
    sweep_jobs = planned(name="full", **ONE_DEPTH)
    launch(sweep_jobs, "retries.storage=2")
    full = meets(StorageError("the disk is full."))
    name = cluster.waiting()[0]
    assert cluster.run(name, full, full, full) == REFUSED
    assert ends(trunk_of(sweep_jobs)) == [End.STORAGE] * 3
    launch(sweep_jobs, "retries.storage=2")
    cluster.run_all()
    assert not list(sweep_jobs.unfinished())


def test_a_trunk_that_diverges_takes_its_branches_tasks_with_it(
    cluster: Cluster, planned: Planner, undisturbed: Undisturbed
) -> None:
    wild = {"optimizer__lr": 1e4, "parametrization__name": "standard", "parametrization__zero_head": False}
    sweep_jobs = planned(name="wild", **wild, **ONE_DEPTH)
    launch(sweep_jobs)
    cluster.run_all()
    assert cluster.tasks == {} and not list(sweep_jobs.unfinished())
    assert ends(trunk_of(sweep_jobs)) == [End.DIVERGED]
    assert {cluster.accounting[name] for name in cluster.accounting} == {"COMPLETED", "CANCELLED"}
    assert same(sweep_jobs, undisturbed)
    assert launch(sweep_jobs).submitted == 0 and launch(sweep_jobs, retry="diverged").submitted == 3


def test_branches_are_released_once_the_controller_is_back(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="away", **ONE_DEPTH)
    launch(sweep_jobs)
    [name] = cluster.waiting()

    def unheard(*arguments: Any) -> Any:
        cluster.away = 1
        return train(*arguments)

    assert cluster.run(name, unheard) == 0
    assert cluster.away == 0 and not cluster.held()


def test_a_task_that_starts_before_its_checkpoint_ends(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="early", **ONE_DEPTH)
    launch(sweep_jobs)
    trunk, branch = cluster.waiting()[0], cluster.held()[0]
    folder = folder_of(cluster, trunk)
    (folder / "tasks" / "0.job").write_text(trunk_of(sweep_jobs).job.id)  # the trunk's task has just begun
    cluster.ask("scontrol", "release", branch)
    assert cluster.run(branch) == 0
    assert not any(attempts.every(planned_job.folder) for planned_job in sweep_jobs.by_id.values())


def test_a_task_takes_jobs_of_its_own_class(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="classes")
    rung = sweep_jobs.plans["all"].rungs[0].name
    submitted = launch(sweep_jobs, f"rungs.{rung}.cpus_per_task=2")
    assert len(submitted.submissions) == 4
    cluster.run(cluster.waiting()[0])
    trained = [planned_job for planned_job in sweep_jobs.by_id.values() if attempts.every(planned_job.folder)]
    assert (
        len(trained) == 3
        and len({planned_job.plan.rung_of(planned_job.job).name for planned_job in trained}) == 1
    )
    cluster.run_all()
    assert not list(sweep_jobs.unfinished())


def side_by_side(number: int) -> list[Fate]:
    """Jobs that go on only once so many are trained at a time."""
    meeting = threading.Barrier(number)

    def fate(*job: Any) -> Any:
        meeting.wait(60)
        return train(*job)

    return [fate] * number


SEEDS: dict[str, Any] = {"grid": {"axes": {"seed.init": [0, 1, 2]}}}


def test_several_workers_train_side_by_side(
    cluster: Cluster, planned: Planner, undisturbed: Undisturbed
) -> None:
    """Jobs of one class share an allocation; tasks that are left without a job are taken back."""
    sweep_jobs = planned(name="shared", **ONE_DEPTH, **SEEDS)
    assert launch(sweep_jobs, "workers=3").submitted == 9
    first, *others = cluster.waiting()
    assert cluster.run(first, *side_by_side(3)) == 0
    assert not list(sweep_jobs.unfinished()) and cluster.tasks == {}
    assert {cluster.accounting[name] for name in others} == {"CANCELLED"}
    assert all(ends(planned_job) == [End.DONE] for planned_job in sweep_jobs.by_id.values())
    assert same(sweep_jobs, undisturbed)


def test_a_task_takes_all_back_that_it_had_in_hand(
    cluster: Cluster, planned: Planner, undisturbed: Undisturbed
) -> None:
    sweep_jobs = planned(name="both", **ONE_DEPTH, grid={"axes": {"seed.init": [0, 1]}})
    launch(sweep_jobs, "workers=2")
    first, second = cluster.waiting()
    requeued = until_told(
        lambda: (cluster.requeue(first), terminate()) if not cluster.tasks[first].restart else None
    )
    assert cluster.run(first, requeued, requeued) == 1
    trunks = only(sweep_jobs, "trunk")
    assert [ends(trunk) for trunk in trunks] == [[End.STOPPED]] * 2
    assert cluster.run(first, *side_by_side(2)) == 0
    assert [ends(trunk) for trunk in trunks] == [[End.STOPPED, End.DONE]] * 2
    assert second not in cluster.tasks and same(sweep_jobs, undisturbed)


def test_one_worker_that_ends_badly_leaves_the_others_at_work(
    cluster: Cluster, planned: Planner, undisturbed: Undisturbed
) -> None:
    sweep_jobs = planned(name="beside", **ONE_DEPTH, grid={"axes": {"seed.init": [0, 1]}})
    launch(sweep_jobs, "workers=2")
    first, _ = cluster.waiting()
    assert cluster.run(first, meets(Killed()), train) == 0
    trunks = only(sweep_jobs, "trunk")
    assert sorted(map(ends, trunks)) == [[End.DIED, End.DONE], [End.DONE]]
    assert same(sweep_jobs, undisturbed)


def test_workers_have_a_gpu_each_in_turn(
    cluster: Cluster, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    sweep_jobs = planned(name="gpus", **ONE_DEPTH)
    launch(sweep_jobs, "workers=4", "execution.device=auto")
    cluster.run(cluster.waiting()[0])
    assert (len(InProcess.pools[-1].workers), InProcess.pools[-1].gpus) == (4, ["4", "5"])


def test_small_jobs_share_a_gpu_of_a_task(
    cluster: Cluster, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/nowhere")
    sweep_jobs = planned(name="gpus", **ONE_DEPTH)
    two = ("resources.gpus_per_node=2", "workers=2", "execution.device=auto")
    launch(sweep_jobs, *two, f"rungs.{sweep_jobs.rungs[0]}.execution.per_gpu=3")
    cluster.run(cluster.waiting()[0])
    assert (len(InProcess.pools[-1].workers), InProcess.pools[-1].gpus) == (6, ["4", "5"])
    with pytest.raises(RequestError, match="per_gpu"):
        launch(sweep_jobs, "execution.per_gpu=2", "resources.tasks_per_node=2")
