"""Changed settings reach what is queued: what waits with others is replaced, or the launch says so."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from sweepctl.errors import RequestError
from sweepctl.launch.slurm.dispatch import dispatch
from sweepctl.launch.slurm.records import Records
from sweepctl.report.submitted import show_submitted
from tests.conftest import Planner, only, run_job

from .cluster import Cluster
from .conftest import launch

ONE_DEPTH: dict[str, Any] = {"ladder__depths": [1]}


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("resources.partition=long", "#SBATCH --partition=long"),
        ("resources.account=other", "#SBATCH --account=other"),
        ("rungs.*.time_min=77", "#SBATCH --time=77"),
        ("sbatch.nice=7", "#SBATCH --nice=7"),
        ("setup=['module load x']", "module load x"),
        ("environment.A=b", "export A="),
        ("execution.log_every_steps=7", ""),
    ],
)
def test_waiting_and_held_tasks_are_replaced(
    cluster: Cluster, planned: Planner, override: str, line: str
) -> None:
    sweep_jobs = planned(name="changed", **ONE_DEPTH)
    launch(sweep_jobs)
    before = set(cluster.tasks)
    again = launch(sweep_jobs, override)
    assert set(again.replaced) == before and again.submitted == 3 and not again.cancelled
    assert len(cluster.tasks) == 3 and not before & set(cluster.tasks)
    assert all(line in script for script in cluster.scripts[-2:])
    assert launch(sweep_jobs, override).submitted == 0
    cluster.run_all()
    assert not list(sweep_jobs.unfinished())


def test_another_value_of_a_variable_is_a_change(
    cluster: Cluster, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a file knows that nobody else can read. A task that submits more has the values of its launch."""
    sweep_jobs = planned(name="value", **ONE_DEPTH)
    launch(sweep_jobs, "environment.A=b", "environment.B=b")
    assert launch(sweep_jobs, "environment.B=b", "environment.A=b").replaced == []
    assert len(launch(sweep_jobs, "environment.A=c", "environment.B=b").replaced) == 3
    files = sorted(sweep_jobs.sweep.folder.rglob("arrays/*/variables"))
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    texts = {path.read_text() for path in files}
    assert len(texts) == len(files)  # the same values of two arrays do not show
    records, order = Records(sweep_jobs.sweep), Records(sweep_jobs.sweep).newest_order()
    monkeypatch.setenv("A", "of the task")
    monkeypatch.setenv("B", "b")
    assert order is not None and dispatch(records, order, sweep_jobs).replaced == []


def test_what_runs_goes_on_with_what_it_has(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="runs", **ONE_DEPTH)
    launch(sweep_jobs)
    [running] = cluster.waiting()
    cluster.tasks[running].state = "RUNNING"
    assert len(launch(sweep_jobs, "sbatch.nice=7").replaced) == 2 and running in cluster.tasks


def test_a_setting_of_another_rung_replaces_nothing(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="other")
    launch(sweep_jobs)
    large = sweep_jobs.plans["all"].rungs[-1].name
    rungs = [planned_job.plan.rung_of(planned_job.job).name for planned_job in sweep_jobs.by_id.values()]
    of_large = rungs.count(large)
    assert len(launch(sweep_jobs, f"rungs.{large}.time_min=30").replaced) == of_large
    assert launch(sweep_jobs, f"rungs.{large}.time_min=30", "max_submitted=100").replaced == []


def test_a_refusal_leaves_the_tasks_that_there_were(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="refused", **ONE_DEPTH)
    launch(sweep_jobs)
    before = dict(cluster.tasks)
    cluster.refusal = "sbatch: error: invalid partition specified: nosuch"
    with pytest.raises(RequestError):
        launch(sweep_jobs, "resources.partition=nosuch")
    assert cluster.tasks == before


def test_what_the_queue_has_no_room_for_is_kept_and_told(cluster: Cluster, planned: Planner) -> None:
    """A task whose job can start is released all the same."""
    sweep_jobs = planned(name="room", **ONE_DEPTH)
    launch(sweep_jobs)
    held = cluster.held()
    [trunk] = cluster.waiting()
    run_job(sweep_jobs, only(sweep_jobs, "trunk")[0])
    again = launch(sweep_jobs, "resources.time_min=30", "max_submitted=2")
    assert (again.submitted, again.unsubmitted, again.queued) == (0, 0, 2)
    assert sorted(again.kept) == sorted(again.released) == sorted(held) and again.cancelled == [trunk]
    assert Records(sweep_jobs.sweep).unsubmitted() is None
    out = Console(width=200, record=True)
    show_submitted(out, sweep_jobs, [], again)
    text = out.export_text()
    assert "2 waiting tasks of other settings not replaced" in text and "): max_submitted=2." in text
    assert f"1 task with nothing left to do cancelled ({trunk})" in text


def test_a_task_that_has_begun_meanwhile_is_left(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="begun", **ONE_DEPTH)
    launch(sweep_jobs)
    [trunk] = cluster.waiting()
    take = cluster.sbatch

    def and_it_begins(*arguments: Any) -> str:
        cluster.tasks[trunk].state = "RUNNING"
        return take(*arguments)

    cluster.sbatch = and_it_begins  # type: ignore[method-assign]
    assert trunk not in launch(sweep_jobs, "sbatch.nice=7").replaced and trunk in cluster.tasks
