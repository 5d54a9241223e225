"""What a batch system says of the tasks that are meant for a sweep's jobs, and what that means for a job."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sweepctl.store.state import JobState, State

PENDING = frozenset(
    ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
)  # fmt: skip
ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED")
) | {"TIMEOUT"}
"""States that nothing comes after. PREEMPTED is none: it is requeued; nor is any word that is not known."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A task that is meant for a job: its name ("1234_7"), Slurm's word for its state, why it waits, and
    whether it is held, as the tasks of branches are until their trunk gets there."""

    task: str
    state: str
    reason: str = ""
    held: bool = False

    @property
    def pending(self) -> bool:
        return self.state in PENDING

    @property
    def alive(self) -> bool:
        """Whether a process of it may run. A state nobody has heard of counts: never dead on doubt."""
        return self.state not in PENDING and self.state not in ENDED


def with_task(state: JobState, task: Queued | None) -> JobState:
    """A job's state by its folder, and by the task that is meant for it.

    What waits for its trunk goes on waiting, its task held or not. Where the task runs, an attempt of the job
    whose heartbeat is old is not called dead: it may only be out of sight.
    """
    if task is None or not (task.pending or task.alive):
        return state
    if task.alive and state.state is State.INTERRUPTED:
        return dataclasses.replace(state, state=State.RUNNING, note="")
    if state.state in (State.READY, State.INTERRUPTED) or (state.state is State.FAILED and task.pending):
        note = task.reason if task.pending else f"task {task.task} runs, with another job in hand"
        return dataclasses.replace(state, state=State.QUEUED, note=note, failure=None)
    return state
