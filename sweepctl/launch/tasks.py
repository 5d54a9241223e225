"""What a scheduler says of the tasks that are meant for a sweep's jobs, and what that means for a job."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sweepctl.store.ends import End
from sweepctl.store.state import JobState, State


class TaskState(StrEnum):
    """Where a task stands. Each launcher translates its scheduler's words."""

    PENDING = "pending"
    """It waits for its turn, or to be released."""
    RUNNING = "running"
    """A process of it runs, starts or ends."""
    ENDED = "ended"
    """Nothing comes after."""
    UNKNOWN = "unknown"
    """The scheduler says nothing of it, or a word that nobody has heard of."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task that is meant for a job."""

    name: str
    """As its scheduler calls it, such as 1234_7."""
    state: TaskState
    """Where it stands."""
    word: str = ""
    """The scheduler's own word for that state."""
    reason: str = ""
    """Why it waits."""
    held: bool = False
    """Whether it waits to be released, as the tasks of branches do until their trunk gets there."""
    owner: str = ""
    """Whose it is; empty: this user's."""
    doing: str = "runs, with another job in hand"
    """What one that runs does, of a job that nobody trains this moment."""

    @property
    def pending(self) -> bool:
        return self.state is TaskState.PENDING

    @property
    def alive(self) -> bool:
        """Whether a process of it may run: never dead on doubt."""
        return self.state in (TaskState.RUNNING, TaskState.UNKNOWN)


def furthest(tasks: Iterable[Task]) -> Task:
    """Of several tasks that are meant for one job, the one that is furthest."""
    return min(tasks, key=lambda task: (task.held, task.pending))


def with_task(state: JobState, task: Task | None) -> JobState:
    """A job's state by its folder, and by the task that is meant for it.

    What waits for its trunk goes on waiting, its task held or not. Where the task runs, an attempt of the job
    whose heartbeat is old is not called dead: it may only be out of sight.
    """
    if task is None or not (task.pending or task.alive):
        return state
    if task.alive and state.state is State.INTERRUPTED:
        return dataclasses.replace(state, state=State.RUNNING, note="")
    if task.alive and state.failure is End.STORAGE:
        note = f"task {task.name} waits for the file system: {state.note}"
        return dataclasses.replace(state, state=State.QUEUED, note=note, failure=None)
    if state.state in (State.READY, State.INTERRUPTED) or (state.state is State.FAILED and task.pending):
        note = task.reason if task.pending else f"task {task.name} {task.doing}"
        return dataclasses.replace(state, state=State.QUEUED, note=note, failure=None)
    return state
