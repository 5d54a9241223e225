"""What a task of the batch system means for the job it is meant for."""

from __future__ import annotations

from typing import Any

import pytest

from sweepctl.launch.queue import Queued, with_task
from sweepctl.store.state import JobState


@pytest.mark.parametrize(
    ("state", "task", "held", "shown"),
    [
        ("ready", "PENDING", False, "queued"),
        ("ready", "PENDING", True, "queued"),
        ("interrupted", "REQUEUED", False, "queued"),
        ("failed", "PENDING", False, "queued"),
        ("waiting", "PENDING", True, "waiting"),
        ("waiting", "PENDING", False, "waiting"),
        ("ready", "RUNNING", False, "queued"),
        ("interrupted", "SOME_NEW_WORD", False, "running"),
        ("interrupted", "RUNNING", False, "running"),
        ("failed", "RUNNING", False, "failed"),
        ("failed", "PENDING", False, "queued"),
        ("failed", "FAILED", False, "failed"),
        ("ready", "COMPLETED", False, "ready"),
        ("interrupted", "NODE_FAIL", False, "interrupted"),
        ("running", "PENDING", False, "running"),
        ("done", "RUNNING", False, "done"),
        ("diverged", "PENDING", False, "diverged"),
        ("cancelled", "PENDING", False, "cancelled"),
    ],
)
def test_a_task_and_a_folder_together(state: Any, task: str, held: bool, shown: str) -> None:
    before = JobState(state, 7, "note", 2, "storage" if state == "failed" else "")
    after = with_task(before, Queued("12_3", task, "Priority", held))
    assert after.state == shown and (after.step, after.attempts) == (7, 2)
    if shown == "queued":
        runs = "task 12_3 runs, with another job in hand"
        assert after.note == (runs if task in ("RUNNING", "SOME_NEW_WORD") else "Priority")
        assert after.failure == ""
    if shown == state:
        assert after == before
    assert with_task(before, None) is before
