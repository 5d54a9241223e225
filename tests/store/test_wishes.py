"""A trunk's wishes, and that none is lost."""

from __future__ import annotations

import pytest

from sweepctl.store import attempts, checkpoints
from sweepctl.store.attempts import Attempt
from sweepctl.store.job import Wish
from tests.conftest import Planner, only, run_all, run_job


def test_a_wish_made_while_the_trunk_finishes_is_kept(
    planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another sweep asks for more in the moment before ownership is given up: it sees a living owner and
    starts nobody, so the trunk must look again."""
    sweep_jobs = planned(budget__tokens=[1280])
    sweep_jobs.make_wishes()
    longer = planned(name="longer", budget__tokens=[5120])
    trunk = only(sweep_jobs, "trunk")[0]
    end = Attempt.end

    def late_wish(self: Attempt, why: str, **facts: object) -> None:
        if self.number == 1:
            assert not checkpoints.steps(trunk.folder)[-1] >= 60
            longer.make_wishes()
            assert attempts.claim(trunk.folder, {}) is None
        end(self, why, **facts)

    monkeypatch.setattr(Attempt, "end", late_wish)
    assert run_job(sweep_jobs, trunk).why == "done"
    assert checkpoints.steps(trunk.folder) == [15, 60]


def test_a_wish_made_while_the_trunk_trains_is_seen(
    planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweepctl.train import loop

    monkeypatch.setattr(loop, "GLANCE_S", 0.0)
    sweep_jobs = planned(budget__tokens=[5120])
    sweep_jobs.make_wishes()
    earlier = planned(name="earlier", budget__tokens=[2560])
    trunk = only(sweep_jobs, "trunk")[0]
    beat = Attempt.beat

    def late_wish(self: Attempt, step: int, tokens: int) -> None:
        if step == 10:
            earlier.make_wishes()
        beat(self, step, tokens)

    monkeypatch.setattr(Attempt, "beat", late_wish)
    run_job(sweep_jobs, trunk)
    assert checkpoints.steps(trunk.folder) == [30, 60]


def test_two_sweeps_share_a_trunk_and_one_can_leave(planned: Planner, workspace) -> None:
    from sweepctl.launch.cancel import cancel
    from sweepctl.launch.clean import delete, find

    leaving = planned(name="one", budget__tokens=[1280, 2560])
    staying = planned(name="two", budget__tokens=[2560, 5120])
    leaving.make_wishes()
    staying.make_wishes()
    trunk = only(leaving, "trunk")[0]
    assert {w.sweep for w in trunk.folder.wishes()} == {"one", "two"}
    done = cancel(leaving)
    shared = {e.job.id for e in leaving.by_id.values()} & {e.job.id for e in staying.by_id.values()}
    assert set(done.spared) == shared and not set(done.cancelled) & shared
    assert {w.step for w in trunk.folder.wishes()} == {30, 60}
    run_all(staying)
    before = {e.job.id: e.folder.result() for e in only(staying, "branch")}
    planned(name="one", budget__tokens=[320])
    delete(workspace.sweep("one"), find(workspace.sweep("one"), "none"))
    assert before == {e.job.id: e.folder.result() for e in only(staying, "branch")}
    assert all(staying.finished(planned_job) for planned_job in staying.by_id.values())


def test_withdrawing_takes_only_the_sweeps_own(planned: Planner) -> None:
    folder = only(planned(), "trunk")[0].folder
    for wish in (Wish(5, "aa", "one"), Wish(5, "aa", "two"), Wish(9, "bb", "one")):
        assert folder.wish(wish)
        assert not folder.wish(wish)
    assert folder.withdraw("one", {"aa"}) == 1
    assert folder.wishes() == [Wish(5, "aa", "two"), Wish(9, "bb", "one")]
