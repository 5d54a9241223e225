"""What a launch submits, and what it makes of refusals, lost answers and ids that are not ours."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sweepctl.errors import RequestError, WorkFailed
from sweepctl.launch.slurm import dispatch, queue_state
from sweepctl.launch.slurm.commands import SlurmError
from sweepctl.launch.slurm.records import Array, Records, author, new_token
from sweepctl.store import attempts
from sweepctl.store.sweep_jobs import SweepJobs
from tests.conftest import Planner, Undisturbed, only, run_job
from tests.launch.settings import resources

from .cluster import ArrayTask, Cluster, Killed
from .conftest import launch, same, slurm

GRID = {"grid": {"axes": {"seed.init": [0, 1, 2]}}, "ladder__depths": [1]}
"""Three trunks, two branches each."""


def test_launching_again_submits_only_what_has_no_task(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="again", **GRID)
    first = launch(sweep_jobs)
    assert (first.submitted, len(cluster.held())) == (9, 6)
    assert (launch(sweep_jobs).submitted, launch(sweep_jobs).queued) == (0, 9)
    lost = cluster.waiting()[0]
    cluster.ask("scancel", lost)
    assert launch(sweep_jobs).submitted == 1 and len(cluster.tasks) == 9


def test_tasks_of_what_no_plan_wants_any_more_are_cancelled(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="fewer", **GRID)
    launch(sweep_jobs)
    fewer = planned(name="fewer", **{**GRID, "budget__tokens": [2560]})
    assert len(launch(fewer).cancelled) == len(set(sweep_jobs.by_id) - set(fewer.by_id)) == 3
    assert len(cluster.tasks) == 6


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_launch_that_dies_around_sbatch_leaves_no_orphan(
    cluster: Cluster, planned: Planner, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(queue_state, "IN_FLIGHT_S", 0.0)
    sweep_jobs = planned(name="orphan", **GRID)
    cluster.sbatch_killed = moment
    with pytest.raises(Killed):
        launch(sweep_jobs)
    cluster.sbatch_killed = ""
    arrived = len(cluster.tasks)
    assert arrived == {"before": 0, "after": 3}[moment]
    again = launch(sweep_jobs)
    assert again.queued == arrived and again.submitted == 9 - arrived and len(cluster.tasks) == 9


def test_a_long_dispatch_keeps_its_turn(
    cluster: Cluster, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a lease, and not joined by a second: a thread renews the turn while Slurm is asked."""
    sweep_jobs = planned(name="long", **GRID)
    monkeypatch.setattr(attempts, "RENEW_S", 0.001)
    renewed, submit, renew = threading.Event(), dispatch.submit, attempts.Attempt.renew

    def noted(self: attempts.Attempt) -> None:
        renew(self)
        renewed.set()

    def slowly(array: Array, *more: Any) -> str:
        renewed.clear()
        assert renewed.wait(60)
        return submit(array, *more)

    monkeypatch.setattr(attempts.Attempt, "renew", noted)
    monkeypatch.setattr(dispatch, "submit", slowly)
    assert launch(sweep_jobs).submitted == 9


def test_an_answer_that_is_lost_is_no_refusal(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="lost", **GRID)
    cluster.refusal = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    with pytest.raises(WorkFailed, match="Launch again"):
        launch(sweep_jobs)
    [intent] = Records(sweep_jobs.sweep).arrays()
    cluster.refusal = ""
    for index in range(len(intent.jobs)):  # it had arrived all the same
        cluster.tasks[f"77_{index}"] = ArrayTask(f"77_{index}", intent.name, "")
    assert launch(sweep_jobs).queued == 3 and len(cluster.tasks) == 9


def test_an_id_that_was_given_out_anew_is_not_ours(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="reset", **GRID)
    jobs = tuple(sweep_jobs.by_id)
    records = Records(sweep_jobs.sweep)
    array = Array(new_token(), "x", "reset.gone", "memory", jobs, resources(), by=author())
    records.intend(array)
    records.write_id(array.token, "55")
    for index in range(len(jobs)):
        cluster.tasks[f"55_{index}"] = ArrayTask(f"55_{index}", "somebody", "", reason="JobHeldUser")
    submitted = launch(sweep_jobs)
    assert submitted.submitted == len(jobs) and submitted.cancelled == submitted.released == []
    assert len(cluster.tasks) == 2 * len(jobs)


def test_another_clusters_arrays_are_left_alone(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="moved", **GRID)
    launch(sweep_jobs)
    cluster.config["ClusterName"], cluster.tasks = "elsewhere", {}
    assert launch(sweep_jobs).submitted == 9
    assert {array.cluster for array in Records(sweep_jobs.sweep).arrays()} == {"memory", "elsewhere"}


@pytest.mark.parametrize(
    ("limit", "fits", "why"),
    [
        ("max_submitted=4", 4, "max_submitted=4"),
        ("MaxJobCount=6", 5, "MaxJobCount=6"),
        ("MaxSubmitJobs=2", 2, "MaxSubmitJobs=2"),
        ("takes 5", 5, "QOSMaxSubmitJobPerUserLimit"),
    ],
)
def test_what_the_queue_does_not_take_is_submitted_by_tasks_that_end(
    cluster: Cluster, planned: Planner, undisturbed: Undisturbed, limit: str, fits: int, why: str
) -> None:
    """Read beforehand from the settings, the configuration or the account; or by the refusal itself: then
    half of the array is tried, and half of that."""
    overrides = []
    key, _, value = limit.replace(" ", "=").partition("=")
    if key == "takes":
        cluster.takes = int(value)
    elif key == "MaxJobCount":
        cluster.config[key] = value
    elif key == "MaxSubmitJobs":
        cluster.associations = f"ClusterName=memory Account=a UserName=u MaxSubmitJobs={value}(1)"
    else:
        overrides = [limit]
    sweep_jobs = planned(name="limited", **GRID)
    submitted = launch(sweep_jobs, *overrides)
    assert (submitted.submitted, submitted.unsubmitted) == (fits, 9 - fits)
    assert why in submitted.why
    [note] = slurm().notes(sweep_jobs.sweep)
    assert note.startswith(f"{9 - fits} jobs without a task of their own (") and why in note
    cluster.run_all()
    assert not list(sweep_jobs.unfinished()) and slurm().notes(sweep_jobs.sweep) == []
    assert same(sweep_jobs, undisturbed)


def test_arrays_are_as_long_as_the_cluster_allows(cluster: Cluster, planned: Planner) -> None:
    cluster.config["MaxArraySize"] = "4"
    submitted = launch(planned(name="short", **GRID))
    assert [len(submission.jobs) for submission in submitted.submissions] == [3, 4, 2]


def test_a_refusal_of_the_request_is_one_sentence(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="refused", **GRID)
    cluster.refusal = (
        "sbatch: error: invalid partition specified: nosuch\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified"
    )
    with pytest.raises(RequestError, match="invalid partition specified: nosuch") as refused:
        launch(sweep_jobs)
    assert len(str(refused.value).splitlines()) == 1
    assert Records(sweep_jobs.sweep).arrays() == [] and cluster.tasks == {}


def test_nothing_is_submitted_where_slurm_does_not_answer(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="away", **GRID)
    launch(sweep_jobs)
    cluster.away = 1
    with pytest.raises(SlurmError, match="Unable to contact"):
        launch(sweep_jobs)
    assert len(cluster.tasks) == 9


def test_where_nobody_may_release_tasks_branches_wait_for_their_trunks_array(
    cluster: Cluster, planned: Planner
) -> None:
    sweep_jobs = planned(name="plain", **GRID)
    launch(sweep_jobs, "commands_on_nodes=false")
    assert not cluster.held()
    assert {queued.dependency for queued in cluster.tasks.values()} == {"", "afterany:101"}
    launch(planned(name="patient", **GRID, optimizer__lr=0.01), "commands_on_nodes=false", "wait_min=1")
    assert "after:103" in {queued.dependency for queued in cluster.tasks.values()}


def test_a_held_task_whose_checkpoint_is_there_is_released_by_a_launch(
    cluster: Cluster, planned: Planner
) -> None:
    """As after a task that died before it could."""
    sweep_jobs = planned(name="late", ladder__depths=[1])
    launch(sweep_jobs)
    held = cluster.held()
    run_job(sweep_jobs, only(sweep_jobs, "trunk")[0])
    assert sorted(launch(sweep_jobs).released) == sorted(held) and not cluster.held()


def test_a_task_that_is_gone_frees_its_job(cluster: Cluster, planned: Planner) -> None:
    """Its attempt has not ended and its process may live, out of sight; but Slurm says that it is over."""
    sweep_jobs = planned(name="gone", **{**GRID, "grid": {}})
    launch(sweep_jobs)
    [trunk] = only(sweep_jobs, "trunk")
    [name] = cluster.waiting()
    record = {"scheduler_id": name, "cluster": "memory", "job_name": cluster.tasks[name].job_name}
    assert attempts.claim(trunk.folder, record) is not None
    cluster.tasks[name].state = "RUNNING"
    assert launch(sweep_jobs).queued == 3
    cluster.ask("scancel", name)
    submitted = launch(sweep_jobs)
    assert submitted.submitted == 1
    cluster.run_all()
    assert not list(SweepJobs(sweep_jobs.sweep, sweep_jobs.plans).unfinished())
