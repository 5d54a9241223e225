"""What it costs to see what can start: files are looked at where something may have changed."""

from __future__ import annotations

import pytest

from benchmarks.scanning import file_calls
from sweepctl.launch.feed import IDLE_S, Decision, Feed
from sweepctl.store.ends import End
from sweepctl.store.result import Result
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from tests.conftest import Planner, only
from tests.launch.settings import retries

TRUNKS = 12


@pytest.fixture
def many(planned: Planner) -> SweepJobs:
    """Twelve trunks with seven branches each: a third is done, the others have not begun."""
    sweep_jobs = planned(
        name="many",
        ladder__depths=[1],
        budget__tokens=[1280, 2560, 3840, 5120, 6400, 7680, 8960],
        grid={"axes": {"seed.init": {"seeds": TRUNKS}}},
    )
    sweep_jobs.make_wishes()
    for trunk in only(sweep_jobs, "trunk")[: TRUNKS // 3]:
        reach(trunk, trunk.job.end)
        for branch in sweep_jobs.branches[trunk.job.id]:
            branch.folder.path.mkdir(parents=True)
            branch.folder.write_result(Result(End.DONE, branch.job.end, loss_nats={"validation": 3.0}))
    return sweep_jobs


def reach(trunk: PlannedJob, step: int) -> None:
    (trunk.folder.checkpoints / f"step-{step:08d}").mkdir(parents=True)


def feed_of(sweep_jobs: SweepJobs, now: list[float], decisions: list[Decision], is_task: bool) -> Feed:
    return Feed(
        sweep_jobs,
        sweep_jobs.by_id.values(),
        retries(),
        decisions.append,
        for_all_sweeps=is_task,
        clock=lambda: now[0],
    )


@pytest.mark.parametrize("is_task", [True, False])
def test_a_look_at_all_jobs_is_two_calls_a_job_and_the_next_none(many: SweepJobs, is_task: bool) -> None:
    now = [0.0]
    feed = feed_of(many, now, [], is_task)
    with file_calls() as first:
        startable = list(feed.startable())
    assert len(startable) == TRUNKS - TRUNKS // 3
    assert len(many.by_id) / 2 < first.count <= 2 * len(many.by_id)
    for planned_job in startable:
        feed.started(planned_job)
    with file_calls() as second:
        assert feed.next() is None
    assert second.count == 0


def test_a_branch_is_looked_at_once_its_checkpoint_is_heard_of_or_after_a_while(many: SweepJobs) -> None:
    """The checkpoint of a worker of one's own at once, another process's a little later."""
    now: list[float] = [0.0]
    feed = feed_of(many, now, [], is_task=False)
    trunks = list(feed.startable())
    for trunk in trunks:
        feed.started(trunk)
    assert feed.next() is None
    branches = {trunk.job.id: many.branches[trunk.job.id] for trunk in trunks}
    own, others = trunks[0], trunks[1]
    for trunk in (own, others):
        reach(trunk, min(branch.job.cut or 0 for branch in branches[trunk.job.id]))
    assert feed.next() is None
    feed.saved(own.job.id)
    first = feed.next()
    assert first in branches[own.job.id]
    assert [e.job.trunk for e in feed.startable()] == [own.job.id]
    now[0] += IDLE_S
    assert {e.job.trunk for e in feed.startable()} == {own.job.id, others.job.id}


def test_what_one_task_saw_finished_the_next_does_not_look_at(many: SweepJobs) -> None:
    sweep, decisions = many.sweep, []
    list(feed_of(many, [0.0], decisions, is_task=True).startable())
    finished = {decision.planned_job.job.id for decision in decisions}
    assert len(finished) == 7 * TRUNKS // 3
    sweep.note_finished(finished)
    with open(sweep.folder / "finished", "a") as file:
        file.write("\nhalf-a-li")
    assert sweep.noted_finished() & many.by_id.keys() == finished
    sweep.forget_finished()
    assert not sweep.noted_finished()
