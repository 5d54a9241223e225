"""What is deleted, and what never is."""

from __future__ import annotations

from typing import Any

import pytest

from sweepctl.launch import clean
from sweepctl.launch.cancel import cancel
from sweepctl.launch.compare import compare_all
from sweepctl.store import attempts, checkpoints
from sweepctl.store.job import JobFolder
from sweepctl.store.sweep_jobs import SweepJobs
from tests.conftest import Planner, StopAfter, only, run_all, run_job

ONE_DEPTH = {"ladder__depths": [1]}


def trunk_of(sweep_jobs: SweepJobs) -> JobFolder:
    return only(sweep_jobs, "trunk")[0].folder


def trained_trunk(sweep_jobs: SweepJobs, **execution: Any) -> JobFolder:
    """Only the trunk is trained: its branches wait."""
    sweep_jobs.make_wishes(execution.get("keep", "all"))
    run_job(sweep_jobs, only(sweep_jobs, "trunk")[0], **execution)
    return trunk_of(sweep_jobs)


def test_the_strongest_policy_of_all_sweeps_holds(planned: Planner) -> None:
    theirs = planned(name="theirs", **ONE_DEPTH)
    run_all(theirs, keep="all")
    run_all(planned(name="mine", budget__tokens=[1280, 5120], **ONE_DEPTH), keep="none")
    assert checkpoints.steps(trunk_of(theirs)) == [15, 30, 60]


def test_a_branch_whose_cut_was_passed_keeps_what_it_starts_from(planned: Planner) -> None:
    """Trained to 60 and kept nothing but that; then a budget in between is asked for."""
    long = planned(name="long", budget__tokens=[5120], **ONE_DEPTH)
    run_all(long, keep="last")
    more = planned(name="long", budget__tokens=[1280, 5120, 10240], **ONE_DEPTH)
    run_all(more, keep="none")
    assert all(more.finished(planned_job) for planned_job in more.by_id.values())
    fresh = planned(name="fresh", budget__tokens=[1280, 5120, 10240], optimizer__lr=0.02, **ONE_DEPTH)
    assert [e.job.id for e in only(fresh, "branch")] == [e.job.id for e in only(more, "branch")]


COSINE = {"schedule__decay": {"fraction": 0.25, "shape": "cosine"}}


def trained_tokens(sweep_jobs: SweepJobs) -> int:
    """By all attempts at its jobs so far."""
    tries = (a for e in sweep_jobs.by_id.values() for a in attempts.every(e.folder))
    return sum(attempt.facts.trained_tokens or 0 for attempt in tries)


def left_tokens(sweep_jobs: SweepJobs) -> int:
    """What `plan` says is left to train."""
    return sum(stage.left.tokens for stage in compare_all(sweep_jobs.sweep, sweep_jobs.plans).values())


def test_a_longer_budget_deletes_no_cut_of_the_plan_before(planned: Planner) -> None:
    run_all(planned(name="mine", **ONE_DEPTH))
    longer = planned(name="mine", budget__tokens=[5120, 10240], **ONE_DEPTH)
    run_all(longer, checkpoint_every_s=1e-9)
    assert checkpoints.steps(trunk_of(longer)) == [15, 30, 60, 120]
    back = planned(name="mine", **COSINE, **ONE_DEPTH)
    before, left = trained_tokens(back), left_tokens(back)
    run_all(back)
    assert left == (5 + 10) * 64 == trained_tokens(back) - before


def test_cuts_of_an_older_plan_go_where_they_are_not_to_be_kept(planned: Planner) -> None:
    run_all(planned(name="mine", **ONE_DEPTH), keep="last")
    longer = planned(name="mine", budget__tokens=[5120], **ONE_DEPTH)
    run_all(longer, keep="last", checkpoint_every_s=1e-9)
    assert checkpoints.steps(trunk_of(longer)) == [60]


@pytest.mark.parametrize("gone", [(), (15,), (30,), (15, 30), (15, 30, 60), (60,)])
@pytest.mark.parametrize("keep", ["all", "none"])
def test_what_plan_says_is_left_is_trained(planned: Planner, gone: tuple[int, ...], keep: str) -> None:
    """Whatever checkpoints are there, also where an attempt was stopped on its way."""
    run_all(planned(name="first", budget__tokens=[1280, 2560, 5120], **ONE_DEPTH))
    again = planned(name="again", budget__tokens=[1280, 2560, 5120], **COSINE, **ONE_DEPTH)
    trunk = trunk_of(again)
    trunk.withdraw("first", {wish.branch for wish in trunk.wishes()})
    for step in gone:
        checkpoints.remove(checkpoints.at(trunk, step))
    before, left = trained_tokens(again), left_tokens(again)
    again.make_wishes(keep)
    planned_job = only(again, "branch")[1]
    if again.can_start(planned_job):
        run_job(again, planned_job, StopAfter(0))
        left = left_tokens(again) + trained_tokens(again) - before
    run_all(again, keep=keep)
    assert left == trained_tokens(again) - before
    assert left_tokens(again) == 0


def test_what_two_stages_want_is_left_once(planned: Planner) -> None:
    stages = {"short": {"budget": {"tokens": [1280]}}, "long": {"budget": {"tokens": [1280, 5120]}}}
    sweep_jobs = planned(name="staged", stages=stages, **ONE_DEPTH)
    compared = compare_all(sweep_jobs.sweep, sweep_jobs.plans)
    left = left_tokens(sweep_jobs)
    run_all(sweep_jobs)
    assert left == trained_tokens(sweep_jobs)
    assert sum(stage.left.jobs for stage in compared.values()) == len(sweep_jobs.by_id)


def test_a_passed_cut_wishes_for_the_checkpoint_that_its_branch_starts_from(planned: Planner) -> None:
    """Another sweep that keeps nothing spares it."""
    theirs = planned(name="theirs", budget__tokens=[1280, 5120], **ONE_DEPTH)
    trunk = trained_trunk(theirs, keep="none")
    mine = planned(name="mine", budget__tokens=[2560], **ONE_DEPTH)
    mine.make_wishes("none")
    for planned_job in only(theirs, "branch"):
        run_job(theirs, planned_job, keep="none")
    clean.delete(theirs.sweep, clean.find(theirs.sweep, "none"))
    assert 15 in checkpoints.steps(trunk)
    before, left = trained_tokens(mine), left_tokens(mine)
    run_all(mine, keep="none")
    assert left == (40 - 15) * 64 == trained_tokens(mine) - before


def test_cancelled_branches_keep_their_checkpoints(planned: Planner) -> None:
    sweep_jobs = planned(name="mine", **ONE_DEPTH)
    trunk = trained_trunk(sweep_jobs)
    cancel(sweep_jobs)
    clean.delete(sweep_jobs.sweep, clean.find(sweep_jobs.sweep, "none"))
    assert checkpoints.steps(trunk) == [15, 30]
    other = planned(name="other", budget__tokens=[10240], **ONE_DEPTH)
    trained_trunk(other)
    assert {15, 30} <= set(checkpoints.steps(trunk))


def test_cleaning_keeps_what_a_new_plan_starts_from(planned: Planner) -> None:
    """The same trunk, another decay, planned and not launched yet."""
    run_all(planned(name="mine", **ONE_DEPTH))
    sweep_jobs = planned(name="mine", schedule__decay={"fraction": 0.25, "shape": "cosine"}, **ONE_DEPTH)
    clean.delete(sweep_jobs.sweep, clean.find(sweep_jobs.sweep, "none"))
    assert checkpoints.steps(trunk_of(sweep_jobs)) == [15, 30]


def test_what_came_to_be_wanted_between_the_look_and_the_deletion_stays(planned: Planner) -> None:
    sweep_jobs = planned(name="mine", **ONE_DEPTH)
    run_all(sweep_jobs)
    unwanted = clean.find(sweep_jobs.sweep, "none")
    assert unwanted.checkpoints
    planned(name="theirs", schedule__decay={"fraction": 0.25, "shape": "cosine"}, **ONE_DEPTH)
    clean.delete(sweep_jobs.sweep, unwanted)
    assert checkpoints.steps(trunk_of(sweep_jobs)) == [15, 30]


def test_a_job_that_is_taken_up_is_not_deleted(planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    old = planned(name="mine", **ONE_DEPTH)
    run_all(old)
    sweep_jobs = planned(name="mine", optimizer__lr=0.03, **ONE_DEPTH)
    unwanted = clean.find(sweep_jobs.sweep, "all")
    monkeypatch.setattr("sweepctl.store.attempts.claim", lambda folder, facts: None)
    clean.delete(sweep_jobs.sweep, unwanted)
    assert all(planned_job.folder.path.exists() for planned_job in old.by_id.values())


def test_a_deletion_that_was_killed_is_finished_by_the_next(planned: Planner) -> None:
    run_all(planned(name="mine", **ONE_DEPTH))
    sweep_jobs = planned(name="mine", optimizer__lr=0.03, **ONE_DEPTH)
    unwanted = clean.find(sweep_jobs.sweep, "all")
    path, _ = next(iter(unwanted.jobs.values()))
    gone = path.with_name(f".{path.name}.abc123.gone")
    path.rename(gone)
    again = clean.find(sweep_jobs.sweep, "all")
    assert gone in [debris for debris, _ in again.debris]
    clean.delete(sweep_jobs.sweep, again)
    assert not gone.exists()


def test_wishes_that_no_plan_of_the_sweep_makes_any_more_are_withdrawn(planned: Planner) -> None:
    planned(name="mine", budget__tokens=[1280, 256_000], **ONE_DEPTH).make_wishes()
    planned(name="theirs", budget__tokens=[12_800], **ONE_DEPTH).make_wishes()
    sweep_jobs = planned(name="mine", budget__tokens=[1280], **ONE_DEPTH)
    run_all(sweep_jobs)
    assert checkpoints.steps(trunk_of(sweep_jobs)) == [15, 150]
