"""Sweeps that share trunks, orders that change while tasks are queued, classes that keep apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweepctl.launch.slurm.records import Records
from sweepctl.store import attempts
from tests.conftest import Planner, Undisturbed, only

from .cluster import OnSlurm, until
from .test_survive import with_fates

ONE_DEPTH = {"ladder__depths": [1]}


def test_a_trunk_goes_on_for_another_sweep_after_a_requeue(on_slurm: Callable[..., OnSlurm]) -> None:
    """The first sweep's cuts are passed, its task is requeued; the second one's branches are released by
    it."""
    first = on_slurm(name="first", budget__tokens=[512_000], **ONE_DEPTH)
    first.launch()
    [trunk] = only(first.sweep_jobs, "trunk")
    until(lambda: first.reached(trunk, 20), why=first.story)
    second = on_slurm(name="second", budget__tokens=[512_000, 1_280_000], **ONE_DEPTH)
    assert second.launch()["already_queued"] >= 1
    until(lambda: second.reached(trunk, 6500), why=first.story)
    first.ask("scontrol", "requeue", attempts.newest(trunk.folder).record["scheduler_id"])
    until(second.finished, why=second.story)
    until(lambda: not first.tasks() and not second.tasks(), why=second.story)
    assert first.same_as_undisturbed() and second.same_as_undisturbed()


def test_a_failed_job_whose_task_still_waits_is_taken_up(
    on_slurm: Callable[..., OnSlurm], tmp_path: Path
) -> None:
    """Another task took the job and failed; its own task, queued under the old order, is told to try
    again."""
    settings = {**with_fates(tmp_path, worker_0="error 1"), "parallel": 1, "sbatch.nice": 1}
    sweep = on_slurm(
        settings, name="forgiven", grid={"axes": {"seed.init": [0, 1]}}, budget__tokens=[64_000], **ONE_DEPTH
    )
    sweep.launch()

    def failed() -> list[Any]:
        return [e for e in only(sweep.sweep_jobs, "trunk") if sweep.records_of(e)[-1:] and
                sweep.records_of(e)[-1].get("why") == "failed"]  # fmt: skip

    until(failed, why=sweep.story)
    sweep.launch()
    assert sweep.finish(launches=0) == 0
    assert sweep.same_as_undisturbed()


def test_tasks_take_jobs_of_their_own_class(on_slurm: Callable[..., OnSlurm]) -> None:
    sweep = on_slurm(name="apart", budget__tokens=[6_400, 12_800])
    large = sweep.sweep_jobs.plans["all"].rungs[-1].name
    sweep.launch(f"rungs.{large}.tasks_per_node=2")
    assert sweep.finish(launches=0) == 0
    for planned_job in sweep.sweep_jobs.by_id.values():
        size = 2 if planned_job.plan.rung_of(planned_job.job).name == large else 1
        assert {record["world_size"] for record in sweep.records_of(planned_job)} == {size}


def test_no_progress_before_the_time_limit_is_a_failure(on_slurm: Callable[..., OnSlurm]) -> None:
    """Restarts that get nowhere end, and say which setting is wrong."""
    sweep = on_slurm(
        {"resources.time_min": 1, "save_ahead_s": 59},
        name="standstill",
        budget__tokens=[6_400_000],
        **ONE_DEPTH,
    )
    sweep.launch()
    [trunk] = only(sweep.sweep_jobs, "trunk")
    until(lambda: sweep.quiet() and len(sweep.records_of(trunk)) >= 3, why=sweep.story)
    last = sweep.records_of(trunk)[-1]
    assert last["why"] == "request" and "time_min" in last["error"]


def test_what_no_plan_wants_any_more_leaves_the_queue(
    on_slurm: Callable[..., OnSlurm], planned: Planner, undisturbed: Undisturbed
) -> None:
    later = {"sbatch.begin": "now+1hour"}
    sweep = on_slurm(later, name="fewer", budget__tokens=[6_400, 12_800], **ONE_DEPTH)
    sweep.launch()
    before = set(sweep.tasks())
    sweep_jobs = planned(name="fewer", budget__tokens=[12_800], **ONE_DEPTH)
    again = OnSlurm(sweep.box, sweep_jobs, undisturbed, **{k.replace(".", "__"): v for k, v in later.items()})
    report = again.launch()
    gone = before - set(again.tasks())
    assert set(report["cancelled"]) == gone and len(gone) == len(
        set(sweep.sweep_jobs.by_id) - set(sweep_jobs.by_id)
    )
    assert again.command("cancel", "fewer", "--yes").returncode == 0
    until(lambda: not again.tasks(), why=again.story)
    assert Records(sweep_jobs.sweep).forgiven() == {}


def test_jobs_share_an_allocation(on_slurm: Callable[..., OnSlurm]) -> None:
    """One task at a time, with two workers: it trains both trunks side by side, and what they fork."""
    settings = {"workers": 2, "parallel": 1}
    sweep = on_slurm(
        settings, name="shared", grid={"axes": {"seed.init": [0, 1]}}, budget__tokens=[640_000], **ONE_DEPTH
    )
    assert sweep.launch()["submitted"] == 4
    assert sweep.finish(launches=0) == 0
    first, second = (attempts.newest(trunk.folder).facts for trunk in only(sweep.sweep_jobs, "trunk"))
    assert first.scheduler_id == second.scheduler_id
    assert max(first.started, second.started) < min(first.ended, second.ended)
    assert sweep.same_as_undisturbed()
