"""What is deleted, and what never is."""

from __future__ import annotations

from typing import Any

import pytest

from sweepctl.launch import clean
from sweepctl.launch.cancel import cancel
from sweepctl.store import checkpoints
from sweepctl.store.job import JobFolder
from sweepctl.store.sweep_jobs import SweepJobs
from tests.conftest import Planner, only, run_all, run_job

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
