"""What `clean` may delete, and whom it lets be: other sweeps, owners by the file system's clock, foreign
folders."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable

import pytest

from sweepctl.launch.cancel import cancel
from sweepctl.launch.clean import Unwanted, delete, find
from sweepctl.launch.status import status
from sweepctl.store import attempts, clock
from sweepctl.store.ends import End
from sweepctl.store.result import Result
from sweepctl.store.state import State
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.store.workspace import Sweep
from tests.conftest import Planner, only, tree


def cleaned(sweep: Sweep) -> Unwanted:
    """What clean shows and then deletes."""
    unwanted = find(sweep, "all")
    delete(sweep, unwanted)
    return unwanted


def finished(sweep_jobs: SweepJobs) -> set[str]:
    """Give every branch a result."""
    branches = only(sweep_jobs, "branch")
    for branch in branches:
        attempts.claim(branch.folder, {}).end(End.DONE)
        branch.folder.write_result(Result(End.DONE, branch.job.end))
    return {branch.job.id for branch in branches}


def replanned(planned: Planner) -> tuple[SweepJobs, set[str]]:
    """A sweep that wants less than it did, and the jobs with results that it does not want any more."""
    before = finished(planned(name="mine"))
    now = planned(name="mine", ladder__depths=[1])
    return now, before - now.by_id.keys()


def a_copy(sweep: Sweep) -> None:
    shutil.copytree(sweep.folder, sweep.folder.with_name("a copy of mine"))


def a_stray_file(sweep: Sweep) -> None:
    (sweep.workspace.root / "notes").write_text("")


def one_without_a_pointer(sweep: Sweep) -> None:
    (sweep.workspace.root / "other" / "current.json").mkdir(parents=True)


def one_that_points_elsewhere(sweep: Sweep) -> None:
    (sweep.workspace.root / "other").mkdir()
    (sweep.workspace.root / "other" / "current.json").write_text('{"stages": {"a": "../../x"}}')


@pytest.mark.parametrize("stray", [a_copy, a_stray_file], ids=lambda stray: stray.__name__)
def test_what_is_no_sweep_stops_neither_clean_nor_cancel(
    planned: Planner, stray: Callable[[Sweep], None]
) -> None:
    sweep_jobs, stale = replanned(planned)
    stray(sweep_jobs.sweep)
    assert stale <= cleaned(sweep_jobs.sweep).jobs.keys()
    assert not any(sweep_jobs.sweep.workspace.has_job(job) for job in stale)
    cancel(sweep_jobs)


def test_a_damaged_sweep_stops_nobody_and_loses_nothing(planned: Planner) -> None:
    theirs = planned(name="theirs")
    shared = set(theirs.by_id)
    sweep_jobs, stale = replanned(planned)
    assert stale and stale <= shared
    [plan] = (theirs.sweep.folder / "plans").iterdir()
    whole = plan.read_text()
    for text in (whole + " ", whole[: len(whole) // 2], "", "\x00"):
        plan.write_text(text)
        unwanted = cleaned(sweep_jobs.sweep)
        assert unwanted.notes and not unwanted.jobs.keys() & stale
        assert all(sweep_jobs.sweep.workspace.job(job).has_result() for job in stale)
    cancel(sweep_jobs)
    shutil.rmtree(theirs.sweep.folder)
    assert stale <= cleaned(sweep_jobs.sweep).jobs.keys()


@pytest.mark.parametrize("damage", [one_without_a_pointer, one_that_points_elsewhere])
def test_a_pointer_that_is_none_stops_nobody(planned: Planner, damage: Callable[[Sweep], None]) -> None:
    sweep_jobs = planned(name="mine")
    [trunk, *_] = only(sweep_jobs, "trunk")
    trunk.folder.path.mkdir(parents=True)
    now = planned(name="mine", ladder__depths=[1, 3])
    damage(now.sweep)
    unwanted = cleaned(now.sweep)
    assert unwanted.notes or damage is one_without_a_pointer
    assert cancel(now).cancelled


def test_an_owner_is_judged_by_the_file_systems_clock(
    planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose clock is ahead by more than a lease takes nobody for dead."""
    sweep_jobs = planned(ladder__depths=[1])
    [trunk] = only(sweep_jobs, "trunk")
    owner = attempts.claim(trunk.folder, {})
    owner.update(host="elsewhere", boot="another")
    written = trunk.folder.checkpoints / ".step-00000015.0001.abcdef"
    written.mkdir(parents=True)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + attempts.LEASE_S + 60)
    clock._looks.clear()
    assert written not in [path for path, _ in cleaned(sweep_jobs.sweep).debris] and written.exists()
    states = {planned_job.job.id: state.state for planned_job, state in status(sweep_jobs).jobs}
    assert states[trunk.job.id] is State.RUNNING
    assert not status(sweep_jobs).problems


def test_all_scratch_of_killed_processes_is_known(planned: Planner) -> None:
    sweep_jobs = planned(ladder__depths=[1])
    [trunk] = only(sweep_jobs, "trunk")
    attempts.claim(trunk.folder, {}).end(End.STOPPED)
    places = [
        "attempts/0001/.heartbeat",
        "attempts/0001/.attempt.json.12345678",
        "attempts/.claim-12345678/attempt.json",
        "checkpoints/.step-00000015.0001.123456/weights",
        "checkpoints/damaged-step-00000015-123456/weights",
        ".result.json.12345678",
        "wanted/.step-00000015.ab.tiny.12345678",
    ]
    before = tree(sweep_jobs.sweep.workspace.root)
    for place in places:
        (trunk.folder.path / place).parent.mkdir(parents=True, exist_ok=True)
        (trunk.folder.path / place).write_text("half")
    old = time.time() - 2 * 86_400
    data = sweep_jobs.sweep.workspace.root / "data" / ".text.12345678"
    data.mkdir()
    for path in (sweep_jobs.sweep.folder / ".12345678.runs.parquet", data / "train-00000.bin", data):
        path.touch()
        os.utime(path, (old, old))
    assert len(cleaned(sweep_jobs.sweep).debris) == len(places) + 2
    assert tree(sweep_jobs.sweep.workspace.root) == before
