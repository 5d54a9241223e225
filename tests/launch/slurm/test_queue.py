"""What a status and a cancel make of the queue."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from sweepctl.launch.cancel import cancel, choose
from sweepctl.launch.queue_memory import QUEUE_S, QueueMemory
from sweepctl.launch.slurm.queue_state import read_queue
from sweepctl.launch.slurm.records import Records
from sweepctl.launch.status import full_status
from sweepctl.store import attempts
from sweepctl.store.state import State
from sweepctl.store.sweep_jobs import SweepJobs
from tests.conftest import Planner, only, tree

from .cluster import Cluster
from .conftest import launch

ONE_DEPTH: dict[str, Any] = {"ladder__depths": [1]}


def states(sweep_jobs: SweepJobs) -> dict[str, State]:
    return {planned_job.job.id: state.state for planned_job, state in full_status(sweep_jobs).jobs}


def test_a_status_says_what_waits_and_why_and_changes_nothing(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="waits", **ONE_DEPTH)
    launch(sweep_jobs)
    [name] = cluster.waiting()
    cluster.tasks[name].reason = "Resources"
    before = tree(sweep_jobs.sweep.workspace.root)
    shown = full_status(sweep_jobs)
    [trunk] = only(sweep_jobs, "trunk")
    notes = {planned_job.job.id: state.note for planned_job, state in shown.jobs}
    assert states(sweep_jobs)[trunk.job.id] is State.QUEUED and "Resources" in notes[trunk.job.id]
    assert all(
        states(sweep_jobs)[planned_job.job.id] is State.WAITING for planned_job in only(sweep_jobs, "branch")
    )
    assert tree(sweep_jobs.sweep.workspace.root) == before


def test_where_slurm_does_not_answer_the_files_speak(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="files", **ONE_DEPTH)
    launch(sweep_jobs)
    cluster.away = 100
    shown = full_status(sweep_jobs)
    assert any("does not answer" in note for note in shown.notes)
    assert set(states(sweep_jobs).values()) == {State.READY, State.WAITING}


def test_how_a_task_ended_without_a_word_is_the_accountings(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="ended", **ONE_DEPTH)
    launch(sweep_jobs)
    [trunk] = only(sweep_jobs, "trunk")
    [name] = cluster.waiting()
    attempt = attempts.claim(trunk.folder, {"launcher": "slurm", "scheduler_id": name, "cluster": "memory"})
    assert attempt is not None
    attempt.update(process_start="before")  # its process is gone
    cluster.tasks.clear()
    cluster.accounting[name] = "NODE_FAIL"
    sweep = full_status(sweep_jobs)
    [state] = [state for planned_job, state in sweep.jobs if planned_job.job.id == trunk.job.id]
    assert state.state is State.INTERRUPTED and f"task {name} ended as NODE_FAIL" in state.note
    assert "Ended without a word of their own, as Slurm has it: 1 NODE_FAIL." in sweep.notes


def test_a_status_says_what_a_task_does_before_it_trains(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="starts", **ONE_DEPTH)
    launch(sweep_jobs)
    [trunk] = only(sweep_jobs, "trunk")
    [name] = cluster.waiting()
    words = {
        "RUNNING": "is starting",
        "SUSPENDED": "is suspended",
        "CONFIGURING": "waits for its node to boot",
    }
    for word, doing in words.items():
        cluster.tasks[name].state = word
        notes = {planned_job.job.id: state.note for planned_job, state in full_status(sweep_jobs).jobs}
        assert notes[trunk.job.id] == f"task {name} {doing}"


def test_who_watches_asks_the_controller_twice_a_minute(cluster: Cluster, planned: Planner) -> None:
    """And for the end of each task once."""
    sweep_jobs = planned(name="watched", **ONE_DEPTH)
    launch(sweep_jobs)
    [name] = cluster.waiting()
    [trunk] = only(sweep_jobs, "trunk")
    attempt = attempts.claim(trunk.folder, {"launcher": "slurm", "scheduler_id": name, "cluster": "memory"})
    assert attempt is not None
    attempt.update(process_start="before")  # its process is gone
    cluster.tasks.clear()
    cluster.accounting[name] = "NODE_FAIL"
    clock = itertools.count(0.0, 5.0)
    memory = QueueMemory(QUEUE_S, clock=lambda: now)
    cluster.questions.clear()
    for now in itertools.islice(clock, 12):  # noqa: B007
        notes = [state.note for _, state in full_status(sweep_jobs, memory).jobs]
        assert any("NODE_FAIL" in note for note in notes)
    asked = Counter(question[0] for question in cluster.questions)
    assert asked == {"scontrol": 2, "squeue": 2, "sacct": 1}


def test_of_a_task_that_runs_nobody_is_called_dead(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="alive", **ONE_DEPTH)
    launch(sweep_jobs)
    [name] = cluster.waiting()
    for word in ("RUNNING", "COMPLETING", "SOMETHING_NEW"):
        cluster.tasks[name].state = word
        [task] = read_queue(Records(sweep_jobs.sweep))[only(sweep_jobs, "trunk")[0].job.id]
        assert task.alive and not task.pending


def test_a_cancel_takes_back_what_waits(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="back", **ONE_DEPTH)
    launch(sweep_jobs)
    [running] = cluster.waiting()
    cluster.tasks[running].state = "RUNNING"
    assert len(cancel(sweep_jobs).cancelled) == 3
    assert list(cluster.tasks) == [running]


def test_a_cancel_spares_what_another_sweep_waits_for(cluster: Cluster, planned: Planner) -> None:
    theirs = planned(name="theirs", **ONE_DEPTH)
    mine = planned(name="mine", **ONE_DEPTH, budget__tokens=[1280, 2560, 5120])
    launch(theirs)
    launch(mine)
    tasks = set(cluster.tasks)
    choice = cancel(mine, choose(mine))
    assert len(choice.spared) >= 3 and len(choice.cancelled) == 1
    assert len(tasks - set(cluster.tasks)) == 1


def test_arrays_of_which_nothing_is_left_are_not_asked_for_again(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="closed", **ONE_DEPTH)
    launch(sweep_jobs)
    cluster.run_all()
    launch(sweep_jobs)
    assert Records(sweep_jobs.sweep).arrays() == []
    asked = len(cluster.questions)
    full_status(sweep_jobs)
    assert len(cluster.questions) == asked
