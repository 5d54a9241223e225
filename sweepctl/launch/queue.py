"""What a batch system says of the tasks that are meant for a sweep's jobs, and what that means for a job."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sweepctl.store.state import JobState

PENDING = frozenset(
    ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
)  # fmt: skip
ENDED = frozenset(
    (
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
        *("PREEMPTED", "REVOKED", "TIMEOUT"),
    )
)


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

    What waits for its trunk goes on waiting, its task held or not. A process that runs but has not claimed
    the job yet, or whose heartbeat cannot be seen from here, counts as running.
    """
    if task is not None and task.pending and state.state in ("ready", "interrupted", "failed"):
        return dataclasses.replace(state, state="queued", note=task.reason, failure="")
    if task is not None and task.alive and state.state in ("ready", "interrupted", "waiting"):
        return dataclasses.replace(state, state="running", note="")
    return state
