"""What launches did and would do, the same records for every launcher: those that train in the foreground,
and those that submit arrays of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sweepctl.store.sweep_jobs import PlannedJob


@dataclass(frozen=True, slots=True)
class Submission:
    """One array of tasks."""

    id: str
    """The scheduler's name for it; empty where it was not submitted."""
    jobs: tuple[str, ...]
    """The jobs that its tasks are meant for, by index."""
    place: str
    """What a task gets, in a few words."""
    resources: Mapping[str, Any]
    """The same, by the launcher's keys."""
    held: bool = False
    """Whether its tasks wait in the queue until their checkpoint is there."""
    script: str = ""
    """The text of its script, where that is to be shown."""
    by_hand: tuple[str, ...] = ()
    """Commands that submit it, one a scheduler, where a person does that."""


@dataclass(slots=True)
class Trained:
    """What a launch in the foreground did, by job ids."""

    finished: list[str] = field(default_factory=list)
    """Those that have all they want; of them `diverged`."""
    failed: dict[str, str] = field(default_factory=dict)
    """Those that failed, with the reason."""
    diverged: list[str] = field(default_factory=list)
    """Those whose result is that they diverged."""
    stopped: bool = False
    """Whether it was told to stop."""
    cancelled: list[str] = field(default_factory=list)
    """Those that were cancelled meanwhile."""
    blocked: list[str] = field(default_factory=list)
    """Those that could not be trained."""
    dropped: list[str] = field(default_factory=list)
    """Those that were left since no plan wants them any more."""

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return 130 if self.stopped else int(bool(self.failed or self.blocked))

    @property
    def goes_on(self) -> bool:
        """Whether jobs may be trained after the launch has returned."""
        return False


@dataclass(frozen=True, slots=True)
class ToTrain:
    """What a launch in the foreground would train."""

    jobs: list[PlannedJob]
    """The jobs that are left."""


@dataclass(frozen=True, slots=True)
class ToSubmit:
    """What a launch would submit."""

    submissions: list[Submission]
    """The arrays, with their scripts."""
    queued: int
    """Jobs that have a task already, or are trained this moment."""
    exhausted: list[str]
    """Jobs that failed and are not taken up again."""


@dataclass(slots=True)
class Submitted:
    """What a launch submitted, and what it found in the queue."""

    submissions: list[Submission] = field(default_factory=list)
    """The arrays."""
    released: list[str] = field(default_factory=list)
    """Held tasks that may run now."""
    cancelled: list[str] = field(default_factory=list)
    """Waiting tasks that nothing is left to do for."""
    queued: int = 0
    """Jobs that had a task already, or are trained this moment."""
    exhausted: list[str] = field(default_factory=list)
    """Jobs that failed and are not taken up again."""
    unsubmitted: int = 0
    """Jobs without a task of their own."""
    why: str = ""
    """Why they have none."""
    replaced: list[str] = field(default_factory=list)
    """Waiting tasks that were cancelled because their settings were others; their jobs have new ones."""
    kept: list[str] = field(default_factory=list)
    """Waiting tasks of other settings that could not be replaced."""
    left_alone: dict[str, str] = field(default_factory=dict)
    """Tasks that were to be released or cancelled and are not, and why: whose they are, or the scheduler's
    words."""
    idle_patterns: list[str] = field(default_factory=list)
    """Patterns of the launcher's `rungs` that match none of the sweep's."""

    @property
    def submitted(self) -> int:
        """Jobs that got a task."""
        return sum(len(submission.jobs) for submission in self.submissions if not submission.by_hand)

    @property
    def exit_code(self) -> int:
        """Of the command, where it does not wait for the end."""
        return 0

    @property
    def goes_on(self) -> bool:
        """Whether jobs may be trained after the launch has returned."""
        return True


Outcome: TypeAlias = Trained | Submitted
Rehearsal: TypeAlias = ToTrain | ToSubmit
