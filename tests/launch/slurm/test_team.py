"""A team on one Slurm: one's own tasks are touched, those of others are named; nothing of theirs stops a
launch or a cancel."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from sweepctl.errors import WorkFailed
from sweepctl.launch.cancel import cancel
from sweepctl.launch.slurm import records as slurm_records
from sweepctl.launch.slurm.records import Records, begin_task, end_task
from sweepctl.launch.slurm.task_ends import last_words
from sweepctl.launch.status import full_status
from sweepctl.store.sweep_jobs import SweepJobs
from tests.conftest import Planner, only, run_job

from .cluster import Cluster
from .conftest import launch, slurm

ONE_DEPTH: dict[str, Any] = {"ladder__depths": [1]}
NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to another user")


def give_away(sweep_jobs: SweepJobs, cluster: Cluster, held: bool | None = None) -> list[str]:
    """Make arrays another user's, and Slurm refuse to touch their tasks, which are returned."""
    records = Records(sweep_jobs.sweep)
    theirs = []
    for array in records.arrays():
        if held in (None, array.held):
            os.chown(records.array_folder(array.token) / "array.json", NOBODY, NOBODY)
            theirs += [name for name in cluster.tasks if name.startswith(f"{records.id(array.token)}_")]
    cluster.refuses |= set(theirs)
    return theirs


@as_root
def test_a_colleagues_waiting_task_covers_its_job_and_a_held_one_does_not(
    cluster: Cluster, planned: Planner
) -> None:
    """Nothing of ours can release theirs."""
    sweep_jobs = planned(name="cover", **ONE_DEPTH)
    launch(sweep_jobs)
    give_away(sweep_jobs, cluster)
    again = launch(sweep_jobs)
    assert (again.submitted, again.queued) == (2, 1)
    assert launch(sweep_jobs).submitted == 0


@as_root
def test_a_launch_goes_on_beside_what_it_cannot_touch(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="beside", **ONE_DEPTH)
    launch(sweep_jobs)
    trunk, *branches = (*only(sweep_jobs, "trunk"), *only(sweep_jobs, "branch"))
    theirs = give_away(sweep_jobs, cluster)
    run_job(sweep_jobs, trunk)
    again = launch(sweep_jobs)
    assert again.submitted == len(branches) == 2 and not again.released and not again.cancelled
    assert set(again.left_alone) == set(theirs)
    assert {why.partition(",")[0] for why in again.left_alone.values()} == {"nobody's"}
    assert set(theirs) <= set(cluster.tasks)
    for name in [name for name in cluster.waiting() if name not in theirs]:
        cluster.run(name)
    assert not list(sweep_jobs.unfinished())
    [note] = full_status(sweep_jobs).notes
    assert "nothing left to do" in note and "nobody's" in note
    assert len(cancel(sweep_jobs).left_alone) == len(theirs)


def test_an_admins_hold_stops_nothing_else(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="admin", **ONE_DEPTH)
    launch(sweep_jobs)
    first, second = cluster.held()
    cluster.tasks[first].reason = "JobHeldAdmin"
    cluster.refuses = {first}
    run_job(sweep_jobs, only(sweep_jobs, "trunk")[0])
    again = launch(sweep_jobs)
    assert again.released == [second] and again.submitted == 0
    assert "ccess" in again.left_alone[first]
    assert len(cancel(sweep_jobs).left_alone) == 1 and second not in cluster.tasks


@as_root
def test_a_cancel_takes_back_ones_own(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="own", **ONE_DEPTH)
    launch(sweep_jobs)
    theirs = give_away(sweep_jobs, cluster, held=True)
    left = cancel(sweep_jobs).left_alone
    assert left == dict.fromkeys(theirs, "nobody's") and set(cluster.tasks) == set(theirs)


@as_root
def test_a_colleagues_hidden_tasks_count_until_they_have_ended(
    cluster: Cluster, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PrivateData: the queue shows ours alone. What a task leaves says that it is over."""
    sweep_jobs = planned(name="hidden", **ONE_DEPTH)
    launch(sweep_jobs)
    give_away(sweep_jobs, cluster)
    records = Records(sweep_jobs.sweep)
    cluster.config["PrivateData"], cluster.tasks = "jobs,usage", {}
    assert (launch(sweep_jobs).submitted, launch(sweep_jobs).queued) == (0, 3)
    trunks, branches = records.arrays()
    folder = records.array_folder(branches.token)
    begin_task(folder, 0, 0)
    end_task(folder, 0)
    assert launch(sweep_jobs).submitted == 1
    begin_task(folder, 0, 1)  # it was requeued
    begin_task(folder, 1, 0)
    long_ago = time.time() - 60 * branches.resources.time_min - 400
    os.utime(folder / "tasks" / "1.0", (long_ago, long_ago))  # killed without a word, a time limit ago
    assert launch(sweep_jobs).submitted == 1
    monkeypatch.setattr(slurm_records, "UNSEEN_S", -1.0)  # it never began
    assert launch(sweep_jobs).submitted == 1
    assert trunks.jobs[0] in {job for array in records.arrays() if array.is_own for job in array.jobs}


def test_a_task_that_ends_says_so(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="says", **ONE_DEPTH)
    launch(sweep_jobs)
    [name] = cluster.waiting()
    folder = Path(cluster.tasks[name].folder)
    cluster.run(name)
    assert (folder / "tasks" / "0.ended").exists()
    begin_task(folder, 0, 1)
    assert not (folder / "tasks" / "0.ended").exists()


def test_a_cancel_without_an_answer_says_what_is_done(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="away", **ONE_DEPTH)
    launch(sweep_jobs)
    cluster.away = 1
    with pytest.raises(WorkFailed, match=r"3 jobs are marked as cancelled.*could not be taken back.*contact"):
        cancel(sweep_jobs)
    assert len(sweep_jobs.sweep.cancelled()) == 3 and len(cluster.tasks) == 3
    cancel(sweep_jobs)
    assert cluster.tasks == {}


def test_a_wait_outlives_a_controller(
    cluster: Cluster, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_jobs = planned(name="outage", **ONE_DEPTH)
    launch(sweep_jobs)
    cluster.away = 2
    seen_by_the_wait: list[int | None] = []

    def look(left: int, tasks: int | None) -> None:
        seen_by_the_wait.append(tasks)
        if tasks:
            cluster.run_all()

    monkeypatch.setattr("sweepctl.launch.launcher.WAIT_S", 0.0)
    assert slurm().wait(sweep_jobs, look) == []
    assert seen_by_the_wait == [None, None, 1, 1]  # an answer is good for several looks


def test_what_arrives_after_it_was_given_up_is_cancelled(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="late", **ONE_DEPTH)
    launch(sweep_jobs)
    records = Records(sweep_jobs.sweep)
    [first, _] = records.arrays()
    late = cluster.waiting()
    records.close(first.token, "it never reached the queue")
    assert launch(sweep_jobs).cancelled == late and len(cluster.tasks) == 3
    [trunk] = cluster.waiting()
    records.close(next(array.token for array in records.arrays() if not array.held), "again")
    cancel(sweep_jobs)
    assert trunk not in cluster.tasks and cluster.tasks == {}


def test_tasks_with_nothing_left_to_do_are_counted_and_cancelled(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="idle", **ONE_DEPTH)
    launch(sweep_jobs)
    for planned_job in (*only(sweep_jobs, "trunk"), *only(sweep_jobs, "branch")):
        run_job(sweep_jobs, planned_job)
    [note] = full_status(sweep_jobs).notes
    assert note.startswith("3 tasks wait with nothing left to do")
    assert cancel(sweep_jobs).cancelled == [] and cluster.tasks == {}


@as_root
def test_what_is_left_over_is_each_users_own(cluster: Cluster, planned: Planner) -> None:
    """Another's launch that submits everything of its own leaves word of ours where it is."""
    sweep_jobs = planned(name="over", **ONE_DEPTH)
    launch(sweep_jobs, "max_submitted=1")
    records = Records(sweep_jobs.sweep)
    ours = records.unsubmitted()
    theirs = records.folder / "orders" / str(NOBODY)
    theirs.mkdir()
    (records.folder / f"unsubmitted.{NOBODY}.json").write_text('{"jobs": 7, "why": "a limit"}')
    assert ours is not None and records.unsubmitted() == ours
    first, second = slurm().notes(sweep_jobs.sweep)
    assert first.startswith("2 jobs without") and second.startswith("7 jobs of nobody's without")
    (records.folder / f"unsubmitted.{NOBODY}.json").write_text('{"jobs": "many"}')
    assert len(slurm().notes(sweep_jobs.sweep)) == 1


def test_an_interpreter_that_is_not_there_is_what_a_task_said(tmp_path: Path) -> None:
    log = tmp_path / "log"
    said = "slurmstepd-node1: error: execve(): /opt/none/python: No such file or directory"
    log.write_text(f"{said}\nsrun: error: node1: task 0: Exited with exit code 2\n")
    assert last_words(log) == said
