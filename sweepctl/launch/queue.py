"""What a batch system says of the task that is meant for a job."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Queued:
    """A task in the queue: its id, the batch system's word for its state, why it waits, whether it is
    held."""

    task: str
    state: str
    reason: str = ""
    held: bool = False
