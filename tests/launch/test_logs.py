"""Finding a job, its attempts, and following it while it goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from sweepctl.errors import RequestError
from sweepctl.launch import logs
from sweepctl.launch.logs import Event, Tail, find_job, follow, read_job_log
from sweepctl.store import attempts, metrics
from tests.conftest import Planner, only, run_all


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "PATIENCE_S", 0.05)


def happenings(events: Iterator[Event]) -> list[str]:
    return [event.what for event in events]


def test_a_job_is_found_by_the_beginning_of_its_id(planned: Planner) -> None:
    sweep_jobs = planned(grid={"axes": {"seed.init": {"seeds": 6}}})
    ids = sorted(sweep_jobs.by_id)
    assert find_job(sweep_jobs, ids[0]).job.id == find_job(sweep_jobs, ids[0][:12]).job.id == ids[0]
    shared = next(a[0] for a, b in pairwise(ids) if a[0] == b[0])
    with pytest.raises(RequestError, match=f"'{shared}' is the beginning of .* jobs: {shared}"):
        find_job(sweep_jobs, shared)
    for name in ("zz", ""):
        with pytest.raises(RequestError):
            find_job(sweep_jobs, name)


def test_a_job_that_never_started_says_what_it_waits_for(planned: Planner) -> None:
    sweep_jobs = planned(name="new", ladder__depths=[1])
    [trunk], [branch, *_] = only(sweep_jobs, "trunk"), only(sweep_jobs, "branch")
    assert read_job_log(sweep_jobs, trunk).waits == "it waits for a launch to take it up"
    waits = read_job_log(sweep_jobs, branch).waits
    assert waits == f"it waits for step {branch.job.cut} of its trunk {trunk.job.id}, ready at step 0"
    with pytest.raises(RequestError, match="never started"):
        read_job_log(sweep_jobs, trunk, 1)
    sweep_jobs.sweep.mark_cancelled([trunk.job.id])
    assert read_job_log(sweep_jobs, trunk).waits == "it was cancelled"


def test_a_trained_job_tells_its_metrics_and_is_over_when_followed(planned: Planner) -> None:
    sweep_jobs = planned(name="trained", ladder__depths=[1])
    run_all(sweep_jobs)
    for planned_job in sweep_jobs.by_id.values():
        story = read_job_log(sweep_jobs, planned_job)
        assert story.chosen is not None and story.waits == "" and story.state.state == "done"
        assert any("lr" in row for row in metrics.rows(story.lines))
        assert happenings(follow(sweep_jobs, planned_job, poll_s=0.01)) == ["attempt", "lines", "ended"]
    with pytest.raises(RequestError, match="no attempt 2; its attempts are 1"):
        read_job_log(sweep_jobs, planned_job, 2)


def test_following_goes_on_to_the_next_attempt(planned: Planner) -> None:
    sweep_jobs = planned(name="follow", ladder__depths=[1])
    [trunk] = only(sweep_jobs, "trunk")
    events = follow(sweep_jobs, trunk, poll_s=0.01)
    assert next(events).what == "untried"
    first = attempts.claim(trunk.folder, {})
    assert first is not None and next(events).attempt.number == 1  # type: ignore[union-attr]
    first.metrics.write_text('{"step": 1}\n{"st')
    assert next(events).lines == ('{"step": 1}',)
    with open(first.metrics, "a") as file:
        file.write('ep": 2}\n')
    assert next(events).lines == ('{"step": 2}',)
    first.end("stopped")
    assert next(events).attempt.record["why"] == "stopped"  # type: ignore[union-attr]
    second = attempts.claim(trunk.folder, {})
    assert second is not None and next(events).attempt.number == 2  # type: ignore[union-attr]
    threading.Timer(0.1, lambda: second.end("failed", error="no")).start()
    assert happenings(events) == ["ended"]


def test_one_attempt_alone_can_be_followed(planned: Planner) -> None:
    sweep_jobs = planned(name="alone", ladder__depths=[1])
    [trunk] = only(sweep_jobs, "trunk")
    for _ in range(2):
        attempts.claim(trunk.folder, {}).end("stopped")  # type: ignore[union-attr]
    assert [e.attempt.number for e in follow(sweep_jobs, trunk, 1) if e.attempt] == [1, 1]


def test_an_attempt_whose_process_is_gone_is_over(planned: Planner) -> None:
    sweep_jobs = planned(name="gone", ladder__depths=[1])
    [trunk] = only(sweep_jobs, "trunk")
    attempts.claim(trunk.folder, {}).update(process_start="0")  # type: ignore[union-attr]
    assert happenings(follow(sweep_jobs, trunk, poll_s=0.01)) == ["attempt", "ended"]


def test_the_process_log_is_followed_from_near_its_end(planned: Planner, tmp_path: Path) -> None:
    sweep_jobs = planned(name="process", ladder__depths=[1])
    [trunk] = only(sweep_jobs, "trunk")
    log = tmp_path / "log"
    log.write_text("x" * 100_000 + "\nlast line\nunfinished")
    attempts.claim(trunk.folder, {"log": str(log)}).end("failed")  # type: ignore[union-attr]
    [lines] = [e.lines for e in follow(sweep_jobs, trunk, process=True, poll_s=0.01) if e.what == "lines"]
    assert lines[-2:] == ("last line", "unfinished") and len(lines[0]) < 70_000
    assert Tail(None).lines() == Tail(tmp_path / "none").lines() == []
