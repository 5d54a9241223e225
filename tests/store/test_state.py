"""What is read of a job's folder: what it finds, and how often it reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from sweepctl.store import attempts, files
from sweepctl.store.ends import End
from sweepctl.store.result import Result
from sweepctl.store.state import JobFiles, JobFilesCache, State
from tests.conftest import Planner, only


@pytest.mark.parametrize("failure", [end for end in End if end.is_failure])
def test_a_failed_job_has_its_class_and_its_error(planned: Planner, failure: End) -> None:
    [first, *_] = only(planned(), "trunk")
    attempt = attempts.claim(first.folder, {})
    assert attempt is not None and JobFiles(first.folder).state().state is State.RUNNING
    attempt.end(failure, error="a\nb\n")
    state = JobFiles(first.folder).state()
    assert (state.state, state.failure, state.note) == (State.FAILED, failure, "a\nb")


@pytest.mark.parametrize("ending", [{"why": "died", "out_of_retries": True}, {"why": "crashed"}])
def test_who_died_once_too_often_has_failed_also_by_an_older_version(
    planned: Planner, ending: dict[str, Any]
) -> None:
    [first, *_] = only(planned(), "trunk")
    attempt = attempts.claim(first.folder, {})
    assert attempt is not None
    attempt.end(End.DIED)
    assert JobFiles(first.folder).state().state is State.INTERRUPTED
    attempt.update(**ending, error="signal 9")
    state = JobFiles(first.folder).state()
    assert (state.state, state.failure, state.note) == (State.FAILED, End.DIED, "signal 9")


def test_a_result_that_comes_later_is_found_and_one_that_is_there_read_once(planned: Planner) -> None:
    [first, *_] = only(planned(), "branch")
    files = JobFilesCache().of(first.folder)
    assert files.result is None
    first.folder.path.mkdir(parents=True)
    result = Result(End.DONE, first.job.end)
    first.folder.write_result(result)
    assert files.result == replace(result, job=first.job.id)
    (first.folder.path / "result.json").unlink()
    assert files.result is not None and files.state().state == "done"


def test_a_board_reads_no_file_twice(planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_jobs = planned()
    for planned_job in only(sweep_jobs, "branch"):
        attempt = attempts.claim(planned_job.folder, {})
        assert attempt is not None
        attempt.end("done")
        planned_job.folder.write_result(Result(End.DONE, planned_job.job.end))
    read: Counter[str] = Counter()
    whole = files.read_json

    def counted(path: Any) -> dict[str, Any]:
        content = whole(path)
        read[str(path)] += 1
        return content

    for module in ("job", "attempts"):
        monkeypatch.setattr(f"sweepctl.store.{module}.read_json", counted)
    cache = JobFilesCache()
    assert {sweep_jobs.state(planned_job, cache).state for planned_job in sweep_jobs.by_id.values()} == {
        "done"
    }
    assert set(read.values()) == {1} and len(read) == 2 * len(only(sweep_jobs, "branch"))
