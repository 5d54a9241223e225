"""What a scheduler's task means for the job it is meant for."""

from __future__ import annotations

import pytest

from sweepctl.launch.tasks import Task, TaskState, furthest, with_task
from sweepctl.store.ends import End
from sweepctl.store.state import JobState, State

PENDING, RUNNING, ENDED, UNKNOWN = TaskState


@pytest.mark.parametrize(
    ("state", "task", "held", "shown"),
    [
        ("ready", PENDING, False, "queued"),
        ("ready", PENDING, True, "queued"),
        ("interrupted", PENDING, False, "queued"),
        ("failed", PENDING, False, "queued"),
        ("waiting", PENDING, True, "waiting"),
        ("waiting", PENDING, False, "waiting"),
        ("ready", RUNNING, False, "queued"),
        ("interrupted", UNKNOWN, False, "running"),
        ("interrupted", RUNNING, False, "running"),
        ("failed", RUNNING, False, "failed"),
        ("failed", ENDED, False, "failed"),
        ("ready", ENDED, False, "ready"),
        ("interrupted", ENDED, False, "interrupted"),
        ("running", PENDING, False, "running"),
        ("done", RUNNING, False, "done"),
        ("diverged", PENDING, False, "diverged"),
        ("cancelled", PENDING, False, "cancelled"),
    ],
)
def test_a_task_and_a_folder_together(state: str, task: TaskState, held: bool, shown: str) -> None:
    before = JobState(State(state), 7, "note", 2, End.FAILED if state == "failed" else None)
    after = with_task(before, Task("12_3", task, reason="Priority", held=held))
    assert after.state == shown and (after.step, after.attempts) == (7, 2)
    if shown == "queued":
        runs = "task 12_3 runs, with another job in hand"
        assert after.note == (runs if task is RUNNING else "Priority")
        assert after.failure is None
    if shown == state:
        assert after == before
    assert with_task(before, None) is before


def test_a_task_that_waits_for_the_file_system_has_not_failed() -> None:
    before = JobState(State.FAILED, 7, "the disk is full", 2, End.STORAGE)
    after = with_task(before, Task("12_3", RUNNING))
    assert after.state is State.QUEUED and after.failure is None
    assert after.note == "task 12_3 waits for the file system: the disk is full"
    assert with_task(before, Task("12_3", ENDED)) is before


def test_of_several_tasks_the_furthest_counts() -> None:
    held, waits, runs = (
        Task("1_0", PENDING, held=True),
        Task("2_0", PENDING),
        Task("3_0", RUNNING),
    )
    assert furthest([held, waits]) is waits and furthest([waits, runs, held]) is runs
