"""What the feed decides: which job is next, and what follows from every end, by its own clock."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sweepctl.errors import StorageError, WorkFailed
from sweepctl.launch.due import Due
from sweepctl.launch.feed import ELSEWHERE_MAX_S, ELSEWHERE_S, IDLE_S, REST_S, Decision, Feed
from sweepctl.store import attempts, checkpoints, files
from sweepctl.store.ends import End
from sweepctl.store.result import Result
from sweepctl.store.state import State
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from tests.conftest import Planner, only, run_job
from tests.launch.settings import retries
from tests.refusals import Refusals


@dataclass
class Desk:
    """A feed, its clock, and what it has decided. Attempts are made as workers would make them."""

    sweep_jobs: SweepJobs
    feed: Feed
    decisions: list[Decision]
    now: list[float] = field(default_factory=lambda: [100.0])

    def later(self, seconds: float) -> None:
        self.now[0] += seconds

    def attempt(
        self, planned_job: PlannedJob, end: End, start_step: int = 0, message: str = "as it was"
    ) -> None:
        """A worker takes the job, and this comes of it."""
        self.feed.started(planned_job)
        if end is not End.BUSY:
            attempt = attempts.claim(planned_job.folder, {"start_step": start_step})
            assert attempt is not None
            if end is not End.DIED:
                attempt.end(end, error=message)
        if end is End.DIED:
            self.feed.died(planned_job, os.getpid(), message, Path("log"))
        else:
            self.feed.ended(planned_job, end, message)

    @property
    def last(self) -> tuple[State, End | None]:
        return self.decisions[-1].state, self.decisions[-1].end


@pytest.fixture(params=[False, True], ids=["one sweep", "all sweeps"])
def desk(planned: Planner, request: pytest.FixtureRequest) -> Desk:
    """The two kinds of feed, as the launcher of this machine and as a task of a cluster has it."""
    return a_desk(planned(ladder__depths=[1]), for_all_sweeps=request.param)


def a_desk(sweep_jobs: SweepJobs, **settings: Any) -> Desk:
    sweep_jobs.make_wishes()
    decisions: list[Decision] = []
    now = [100.0]
    jobs = sweep_jobs.by_id.values() if settings.get("for_all_sweeps") else sweep_jobs.unfinished()
    settings = {"retries": retries(), "clock": lambda: now[0], **settings}
    return Desk(sweep_jobs, Feed(sweep_jobs, jobs, tell=decisions.append, **settings), decisions, now)


def succeeds(desk: Desk, trunk: PlannedJob) -> None:
    run_job(desk.sweep_jobs, trunk)
    desk.feed.ended(trunk, End.DONE, "")
    assert desk.last == (State.DONE, End.DONE)
    assert desk.feed.next() in only(desk.sweep_jobs, "branch")


def diverges(desk: Desk, trunk: PlannedJob) -> None:
    trunk.folder.write_result(Result(End.DIVERGED, 3, attempt=1, reason="the loss is not finite"))
    desk.attempt(trunk, End.DIVERGED)
    assert desk.last == (State.DIVERGED, End.DIVERGED)
    assert desk.feed.next() is None and not desk.feed.elsewhere
    assert {d.state for d in desk.decisions if d.planned_job.job.kind == "branch"} == {State.DIVERGED}


def goes_on(end: End) -> Callable[[Desk, PlannedJob], None]:
    def check(desk: Desk, trunk: PlannedJob) -> None:
        desk.attempt(trunk, end)
        assert desk.last == (State.INTERRUPTED, end) and desk.feed.next() is trunk

    return check


def is_elsewhere(end: End) -> Callable[[Desk, PlannedJob], None]:
    """Left alone for longer and longer, and not for ever."""

    def check(desk: Desk, trunk: PlannedJob) -> None:
        for pause_s in (ELSEWHERE_S, 2 * ELSEWHERE_S, 4 * ELSEWHERE_S, 8 * ELSEWHERE_S, ELSEWHERE_MAX_S):
            desk.attempt(trunk, end)
            assert desk.last == (State.RUNNING, end) and desk.feed.elsewhere == 1
            desk.later(pause_s - 0.01)
            assert desk.feed.next() is None
            desk.later(0.02)
            assert desk.feed.next() is trunk and desk.feed.elsewhere == 0

    return check


def has_a_budget(end: End) -> Callable[[Desk, PlannedJob], None]:
    """It is taken up again as often as its class allows, and the last message says what it failed of."""

    def check(desk: Desk, trunk: PlannedJob) -> None:
        for _ in range(retries().of(end)):
            desk.attempt(trunk, end, message="it broke.")
            assert desk.last == (State.INTERRUPTED, end)
            assert "it broke" in desk.decisions[-1].message
            desk.later(REST_S)
            assert desk.feed.next() is trunk
        desk.attempt(trunk, end, message="it broke.")
        desk.later(REST_S)
        assert desk.last == (State.FAILED, end) and desk.feed.next() is None
        assert "it broke" in desk.decisions[-1].message and "again" not in desk.decisions[-1].message
        assert (
            desk.sweep_jobs.state(trunk).state is State.FAILED and desk.sweep_jobs.state(trunk).failure is end
        )

    return check


def rests(desk: Desk, trunk: PlannedJob) -> None:
    """The pauses grow; what fails within one is of the same trouble; with the budget the feed gives up."""
    for refusal in range(retries().storage):
        desk.attempt(trunk, End.STORAGE, message="The disk is full.")
        assert desk.last == (State.INTERRUPTED, End.STORAGE)
        pause_s = min(60.0, 2.0**refusal)
        desk.later(pause_s / 2)
        assert desk.feed.next() is None and desk.feed.rest_s() == pytest.approx(pause_s / 2)
        desk.feed.refused(trunk, "The disk is full.")
        desk.later(pause_s / 2)
        assert desk.feed.rest_s() == 0.0 and desk.feed.next() is trunk
    with pytest.raises(StorageError, match=r"full\. It was tried 21 times"):
        desk.attempt(trunk, End.STORAGE, message="The disk is full.")


def test_who_runs_out_of_tries_while_others_go_on_has_failed(planned: Planner) -> None:
    desk = a_desk(planned(ladder__depths=[1, 2]), retries=retries(storage=2))
    trunk, other = only(desk.sweep_jobs, "trunk")
    states = []
    for _ in range(3):
        desk.attempt(trunk, End.STORAGE, message="No room here.")
        states.append(desk.last)
        desk.later(60.0)
        run_job(desk.sweep_jobs, other)
        desk.feed.ended(other, End.DONE, "")
    assert states[:2] == [(State.INTERRUPTED, End.STORAGE)] * 2 and states[2] == (State.FAILED, End.STORAGE)


def test_a_rest_can_be_broken_off(desk: Desk) -> None:
    [trunk] = only(desk.sweep_jobs, "trunk")
    desk.attempt(trunk, End.INFRASTRUCTURE)
    assert desk.feed.next() is None
    desk.feed.wake()
    assert desk.feed.next() is trunk


EXPECTED: dict[End, Callable[[Desk, PlannedJob], None]] = {
    End.DONE: succeeds,
    End.DIVERGED: diverges,
    End.STOPPED: goes_on(End.STOPPED),
    End.SUPERSEDED: is_elsewhere(End.SUPERSEDED),
    End.BUSY: is_elsewhere(End.BUSY),
    End.FAILED: has_a_budget(End.FAILED),
    End.REQUEST: has_a_budget(End.REQUEST),
    End.STORAGE: rests,
    End.OUT_OF_MEMORY: has_a_budget(End.OUT_OF_MEMORY),
    End.INFRASTRUCTURE: has_a_budget(End.INFRASTRUCTURE),
    End.DIED: has_a_budget(End.DIED),
}


@pytest.mark.parametrize("end", End)
def test_every_end_has_its_consequence(desk: Desk, end: End) -> None:
    trunk = desk.feed.next()
    assert trunk is not None and trunk.job.kind == "trunk"
    EXPECTED[end](desk, trunk)


@pytest.mark.parametrize("end", [end for end in End if end.has_retries and end is not End.STORAGE])
def test_only_tries_at_one_place_count_and_those_of_now(planned: Planner, end: End) -> None:
    forgiven = {"number": 0}
    desk = a_desk(planned(ladder__depths=[1]), forgiven=lambda job: forgiven["number"])
    [trunk] = only(desk.sweep_jobs, "trunk")
    for step in range(0, 50, 10):
        desk.attempt(trunk, end, start_step=step)
        desk.later(REST_S)
    budget = retries().of(end)
    assert (desk.feed.next() is trunk) == (budget > 0)
    for _ in range(budget):
        desk.attempt(trunk, end, start_step=40)
    desk.later(REST_S)
    assert desk.feed.next() is None
    forgiven["number"] = 5 + budget
    desk.later(IDLE_S)
    assert desk.feed.next() is trunk


def test_after_want_of_memory_people_hear_of_half_the_micro_batch(desk: Desk) -> None:
    [trunk] = only(desk.sweep_jobs, "trunk")
    desk.attempt(trunk, End.OUT_OF_MEMORY, message="No 3 GB.")
    assert desk.decisions[-1].words == "out of memory. No 3 GB; it is tried again with half the micro-batch"
    desk.attempt(trunk, End.OUT_OF_MEMORY, message="No 2 GB.")
    assert desk.decisions[-1].words == "failed: out of memory. No 2 GB."


def test_workers_that_end_before_they_begin_are_no_fault_of_the_job(desk: Desk) -> None:
    [trunk] = only(desk.sweep_jobs, "trunk")
    for _ in range(retries().died):
        desk.feed.started(trunk)
        desk.feed.died(trunk, os.getpid(), "exit code 1", Path("/log"))
        assert desk.feed.next() is trunk and attempts.newest(trunk.folder) is None
    with pytest.raises(WorkFailed, match="/log says why"):
        desk.feed.stillborn(Path("/log"))
    desk.attempt(trunk, End.STOPPED)
    desk.feed.stillborn(Path("/log"))


def test_what_died_is_said_on_the_attempt_of_that_process_alone(desk: Desk) -> None:
    [trunk] = only(desk.sweep_jobs, "trunk")
    theirs = attempts.claim(trunk.folder, {})
    assert theirs is not None
    desk.feed.died(trunk, os.getpid() + 1, "signal 9", Path("log"))
    assert not attempts.every(trunk.folder)[0].ended
    desk.feed.died(trunk, os.getpid(), "signal 9", Path("log"))
    assert attempts.every(trunk.folder)[0].facts.why is End.DIED


def test_what_others_have_is_left_alone_until_they_give_it_up(desk: Desk) -> None:
    [trunk] = only(desk.sweep_jobs, "trunk")
    theirs = attempts.claim(trunk.folder, {})
    assert theirs is not None and desk.feed.next() is None and desk.feed.elsewhere == 1
    theirs.end(End.STOPPED)
    assert desk.feed.next() is None
    desk.later(ELSEWHERE_S)
    assert desk.feed.next() is trunk and desk.feed.elsewhere == 0


def test_a_lost_place_is_taken_over(planned: Planner) -> None:
    desk = a_desk(planned(ladder__depths=[1]), gone=lambda owner: owner.scheduler_id == "7_1")
    [trunk] = only(desk.sweep_jobs, "trunk")
    attempts.claim(trunk.folder, {"scheduler_id": "7_1"})
    assert desk.feed.next() is trunk


def test_cancelled_jobs_are_told_once_and_come_back_with_a_launch(desk: Desk) -> None:
    [trunk] = only(desk.sweep_jobs, "trunk")
    desk.sweep_jobs.sweep.mark_cancelled([trunk.job.id])
    desk.feed.look_for_cancels()
    desk.feed.look_for_cancels()
    assert [d.state for d in desk.decisions] == [State.CANCELLED] and desk.feed.next() is None
    desk.sweep_jobs.sweep.uncancel()
    desk.feed.look_for_cancels()
    assert desk.feed.next() is trunk


def test_the_most_urgent_comes_first_and_nothing_twice(planned: Planner) -> None:
    desk = a_desk(planned())
    longer, shorter = sorted(only(desk.sweep_jobs, "trunk"), key=lambda e: -desk.sweep_jobs.urgency(e))
    assert desk.feed.next() is longer
    desk.feed.started(longer)
    assert desk.feed.next() is shorter
    assert list(desk.feed.startable(lambda planned_job: planned_job is longer)) == []


def test_a_trunk_whose_wish_was_withdrawn_is_wished_for_again_and_not_for_ever(planned: Planner) -> None:
    desk = a_desk(planned(ladder__depths=[1]))
    [trunk] = only(desk.sweep_jobs, "trunk")
    branches = {branch.job.id for branch in only(desk.sweep_jobs, "branch")}
    trunk.folder.withdraw(desk.sweep_jobs.sweep.name, branches)
    desk.attempt(trunk, End.DONE)
    assert desk.last == (State.INTERRUPTED, End.STOPPED)
    assert {wish.branch for wish in trunk.folder.wishes()} == branches and desk.feed.next() is trunk
    desk.attempt(trunk, End.DONE)
    assert desk.last == (State.FAILED, End.FAILED) and desk.feed.next() is None
    assert "without what its branches want" in desk.decisions[-1].message


def test_a_cancel_that_was_not_looked_at_yet_is_no_lack(planned: Planner) -> None:
    desk = a_desk(planned(ladder__depths=[1]))
    [trunk] = only(desk.sweep_jobs, "trunk")
    desk.sweep_jobs.sweep.mark_cancelled([branch.job.id for branch in only(desk.sweep_jobs, "branch")])
    desk.attempt(trunk, End.DONE)
    assert desk.last == (State.DONE, End.DONE)
    assert [d.state for d in desk.decisions].count(State.CANCELLED) == 2


def test_lost_checkpoints_open_their_trunk_once(planned: Planner) -> None:
    desk = a_desk(planned(ladder__depths=[1]))
    [trunk] = only(desk.sweep_jobs, "trunk")
    run_job(desk.sweep_jobs, trunk)
    desk.feed.ended(trunk, End.DONE, "")
    assert not desk.feed.reopen()
    for step in checkpoints.steps(trunk.folder):
        checkpoints.remove(checkpoints.at(trunk.folder, step))
    assert desk.feed.next() is None and desk.feed.reopen() and desk.feed.next() is trunk
    assert not desk.feed.reopen()


def test_what_no_plan_wants_since_is_not_started(desk: Desk, planned: Planner) -> None:
    """What is in hand goes on, what another sweep wants is started, and a plan may want it again."""
    trunk = only(desk.sweep_jobs, "trunk")[0]
    short, long = only(desk.sweep_jobs, "branch")
    (trunk.folder.checkpoints / f"step-{long.job.cut:08d}").mkdir(parents=True)
    desk.feed.started(short)
    name = desk.sweep_jobs.sweep.name
    planned(name=name, optimizer__lr=0.03, ladder__depths=[1])
    desk.feed.look_for_cancels()
    assert desk.feed.next() is None and not desk.feed.elsewhere and not desk.feed.reopen()
    assert desk.feed.in_hand == {short.job.id} and desk.feed.dropped == set(desk.sweep_jobs.by_id)
    planned(name="theirs", budget__tokens=[2560], ladder__depths=[1])
    planned(name=name, optimizer__lr=0.04, ladder__depths=[1])
    desk.feed.look_for_cancels()
    assert desk.feed.next() is long
    planned(name=name, ladder__depths=[1])
    desk.feed.look_for_cancels()
    assert not desk.feed.dropped


def test_another_sweep_s_wish_is_only_a_task_s_concern(planned: Planner) -> None:
    mine = planned(name="mine", ladder__depths=[1])
    [trunk] = only(mine, "trunk")
    mine.make_wishes()
    run_job(mine, trunk)
    theirs = planned(name="theirs", ladder__depths=[1], budget__tokens=[1280, 2560, 5120])
    theirs.make_wishes()
    for for_all_sweeps in (False, True):
        desk = a_desk(mine, for_all_sweeps=for_all_sweeps)
        assert desk.feed.can_start(trunk) == for_all_sweeps


def test_something_is_due_at_first_then_now_and_then_and_when_it_is_hastened() -> None:
    now = [0.0]
    due = Due(3.0, lambda: now[0])
    assert due.is_due() and not due.is_due()
    now[0] = 2.9
    assert not due.is_due()
    due.hasten()
    assert due.is_due() and not due.is_due()
    now[0] = 5.9
    assert due.is_due()


def unreadable(job_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the file server had lost this folder."""
    read = files.read_bytes

    def refuses(path: Path) -> bytes:
        if path.is_relative_to(job_folder):
            raise StorageError(f"Cannot read {path}: the file server has lost it.")
        return read(path)

    monkeypatch.setattr(files, "read_bytes", refuses)


def test_what_cannot_be_read_is_looked_at_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    [trunk] = only(desk.sweep_jobs, "trunk")
    with monkeypatch.context() as patch:
        unreadable(trunk.folder.path.parent.parent, patch)
        for pause_s in (1.0, 2.0, 4.0):
            assert desk.feed.next() is None and desk.feed.rest_s() == pause_s
            desk.later(pause_s)
        assert desk.last == (State.INTERRUPTED, End.STORAGE)
    assert desk.feed.next() is trunk


def test_a_job_that_stays_unreadable_stops_no_other(
    planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = a_desk(planned(), retries=retries(storage=2))
    large, small = only(desk.sweep_jobs, "trunk")[::-1]
    unreadable(large.folder.path, monkeypatch)
    assert desk.feed.next() is None
    desk.later(1.0)
    assert desk.feed.next() is small
    desk.feed.started(small)
    while large.job.id not in desk.feed.given_up:
        assert desk.feed.next() is None
        desk.later(10.0)
    assert large.job.id in {d.planned_job.job.id for d in desk.decisions if d.state is State.FAILED}


def test_an_end_that_cannot_be_judged_now_is_judged_later(
    planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = a_desk(planned(ladder__depths=[1]))
    [trunk] = only(desk.sweep_jobs, "trunk")
    run_job(desk.sweep_jobs, trunk)
    desk.feed.started(trunk)
    with monkeypatch.context() as patch:
        unreadable(trunk.folder.path.parent.parent, patch)
        desk.feed.ended(trunk, End.DONE, "")
        assert desk.last == (State.INTERRUPTED, End.STORAGE)
    desk.later(60.0)
    assert list(desk.feed.startable()) == sorted(
        only(desk.sweep_jobs, "branch"), key=lambda branch: -desk.sweep_jobs.urgency(branch)
    )
    assert trunk.job.id not in desk.feed.open


def test_a_failure_without_an_attempt_is_not_tried_for_ever(planned: Planner) -> None:
    """As where a plan's job is not the science it is named by: nothing is claimed then."""
    desk = a_desk(planned(ladder__depths=[1]), retries=retries(request=3))
    [trunk] = only(desk.sweep_jobs, "trunk")
    desk.feed.started(trunk)
    desk.feed.ended(trunk, End.REQUEST, "another science")
    assert desk.last == (State.FAILED, End.REQUEST) and desk.feed.next() is None


def test_what_one_job_is_refused_keeps_no_other_waiting(planned: Planner) -> None:
    """A trunk that a colleague keeps to themselves, say."""
    desk = a_desk(planned())
    large = desk.feed.next()
    desk.attempt(large, End.STORAGE)
    desk.later(60.0)
    small = desk.feed.next()
    assert small is not None and small is not large
    desk.attempt(small, End.BUSY)
    assert desk.feed.next() is large


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_whatever_a_launcher_looks_at_may_fail(planned: Planner, code: int) -> None:
    """Each of its own calls in turn: every job is finished all the same, and nothing is raised."""
    sweep_jobs = planned(ladder__depths=[1], budget__tokens=[1280])
    store = sweep_jobs.sweep.workspace.root / "store"

    def launch(refusals: Refusals) -> None:
        shutil.rmtree(store, ignore_errors=True)
        desk = a_desk(sweep_jobs)
        for _ in range(30):
            with refusals():
                planned_job = desk.feed.next()
            desk.later(60.0)
            if planned_job is None:
                continue
            desk.feed.started(planned_job)
            attempts.claim(planned_job.folder, {"start_step": 0}).end(End.DONE)
            if planned_job.job.kind == "branch":
                planned_job.folder.write_result(Result(End.DONE, planned_job.job.end))
            else:
                checkpoints.at(planned_job.folder, planned_job.job.end).path.mkdir(parents=True)
            with refusals():
                desk.feed.ended(planned_job, End.DONE, "")
        assert not desk.feed.open and not desk.feed.given_up, refusals.refused

    watched = Refusals(store, 0, code)
    launch(watched)
    assert watched.calls > 10
    for at in range(1, watched.calls + 1):
        launch(Refusals(store, at, code))
