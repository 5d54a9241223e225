"""How often a job is taken up again after each class of failure, and whether that is used up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from sweepctl.errors import InvalidValue
from sweepctl.store import attempts
from sweepctl.store.attempts import Attempt
from sweepctl.store.ends import End
from sweepctl.store.job import JobFolder


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a job is taken up again after each class of failure, until a person says `--retry`."""

    failed: int
    """After a Python error."""
    request: int
    """After a setting that cannot be met."""
    out_of_memory: int
    """With half the micro-batch, the same global batch."""
    died: int
    """After a process that was killed."""
    infrastructure: int
    """After a machine or network that failed."""
    storage: int
    """After a file system that refused, with ever longer pauses."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise InvalidValue(field.name, getattr(self, field.name), "at least 0")

    def of(self, end: End) -> int:
        """The budget of a class of failure."""
        return int(getattr(self, end)) if end.has_retries else 0


def tries_alike(
    folder: JobFolder,
    last: Attempt | None,
    forgiven: int = 0,
    every: Callable[[JobFolder], list[Attempt]] = attempts.every,
) -> int:
    """How many attempts in a row ended as the newest did without getting further: 0 where that is no failure.

    Attempts up to number `forgiven` do not count, nor do those before a checkpoint was gained: a long job may
    fail now and then.
    """
    why = last.facts.why if last is not None else None
    if last is None or why is None or not why.has_retries:
        return 0
    alike = 0
    for attempt in reversed(every(folder)):
        if attempt.number <= forgiven or attempt.facts.start_step != last.facts.start_step:
            break
        alike += attempt.facts.why is why
    return alike


def exhausted(
    folder: JobFolder,
    last: Attempt | None,
    retries: Retries,
    forgiven: int = 0,
    every: Callable[[JobFolder], list[Attempt]] = attempts.every,
) -> bool:
    """Whether the job's newest attempt failed and its class has no retry left."""
    if last is None or last.facts.why is None or last.number <= forgiven:
        return False
    return last.facts.out_of_retries or tries_alike(folder, last, forgiven, every) > retries.of(
        last.facts.why
    )
