"""Where a job stands, read from its files alone. Reading never changes a state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto
from functools import cached_property
from pathlib import Path

from sweepctl.store import attempts, checkpoints
from sweepctl.store.attempts import Attempt
from sweepctl.store.ends import End
from sweepctl.store.files import names
from sweepctl.store.job import JobFolder
from sweepctl.store.result import Result


class State(StrEnum):
    """Where a job stands, in the order in which states are shown."""

    DONE = auto()
    """It has its result; a trunk, all that its branches want."""
    DIVERGED = auto()
    """Its result is that it diverged, or that its trunk did."""
    RUNNING = auto()
    """A process that may be alive owns it."""
    QUEUED = auto()
    """A batch system has a task for it. The folder does not know."""
    READY = auto()
    """It can start."""
    INTERRUPTED = auto()
    """It was begun, nobody trains it, and it has not failed."""
    WAITING = auto()
    """Its trunk is not there yet."""
    CANCELLED = auto()
    """The sweep gave it up. The folder does not know."""
    FAILED = auto()
    """Its last attempt failed."""

    @property
    def is_final(self) -> bool:
        """Whether there is nothing left to train."""
        return self in (State.DONE, State.DIVERGED)


@dataclass(frozen=True, slots=True)
class JobState:
    """One job's state."""

    state: State
    """Where it stands."""
    step: int = 0
    """How far it is known to be."""
    note: str = ""
    """Why it failed or waits."""
    attempts: int = 0
    """How often it was tried."""
    failure: End | None = None
    """The class of its failure, where it has failed."""


class JobFiles:
    """A job's files as they were read: each once, when it is first asked for, so that the thousands of jobs
    of a sweep can be held against each other without reading any file twice."""

    def __init__(self, folder: JobFolder, once: bool = False) -> None:
        self.folder = folder
        self._result: Result | None = None
        self._once, self._looked = once, False

    @property
    def result(self) -> Result | None:
        """result.json. One that is missing is looked for again: it may have come since; not where everything
        is read `once`, for a look at many jobs."""
        if self._result is None and not (self._once and self._looked):
            self._result, self._looked = self.folder.result(), True
        return self._result

    @cached_property
    def saved(self) -> list[int]:
        """Steps of the complete checkpoints, rising."""
        return checkpoints.steps_among(self._checkpoint_names)

    @property
    def set_aside(self) -> list[Path]:
        """Checkpoints that were damaged."""
        aside = (name for name in self._checkpoint_names if name.startswith(checkpoints.DAMAGED))
        return [self.folder.checkpoints / name for name in sorted(aside)]

    @cached_property
    def _checkpoint_names(self) -> list[str]:
        return names(self.folder.checkpoints)

    @cached_property
    def attempts(self) -> list[Attempt]:
        """All attempts, oldest first."""
        return attempts.every(self.folder)

    def forget_attempts(self) -> None:
        """Give their records back: no other job is judged by them."""
        self.__dict__.pop("attempts", None)

    def reaches(self, cut: int) -> bool:
        """Whether a branch of this trunk with this cut can start: its checkpoint is there, or the trunk has
        passed the cut (the branch then trains the piece from the nearest earlier one in its own folder)."""
        if cut == 0 or any(step >= cut for step in self.saved):
            return True
        return self.result is not None and cut < self.result.step

    def start_of(self, cut: int) -> int:
        """The step of the checkpoint that a branch of this trunk starts from; 0 where none is left, once the
        trunk has passed its cut."""
        return max((step for step in self.saved if step <= cut), default=0)

    def outcome(self, trunk: JobFiles | None, cut: int | None) -> Result | None:
        """The result; a branch whose trunk had diverged by the cut diverged with it; None while it is open.
        The trunk's step alone decides, not which checkpoints are left, so that the order of asking does not
        matter."""
        if self.result is None and trunk is not None:
            diverged = trunk.result
            if diverged is not None and diverged.step <= (cut or 0):
                return Result(End.DIVERGED, reason="its trunk diverged before the cut")
        return self.result

    def state(
        self, trunk: JobFiles | None = None, cut: int | None = None, end: int | None = None
    ) -> JobState:
        """The state of a job of a plan: `cut` and its `trunk` for a branch, the last cut as `end` for a
        trunk."""
        result = self.outcome(trunk, cut)
        last = self.attempts[-1] if self.attempts else None
        count = last.number if last else 0
        if result is not None:
            return JobState(State(result.end), result.step, result.reason, count)
        step = max(self.saved, default=0)
        if last is not None and last.alive():
            return JobState(State.RUNNING, max(step, int(last.progress().get("step", 0))), attempts=count)
        if trunk is None and end is not None and step >= end:
            return JobState(State.DONE, step, attempts=count)
        if last is not None:
            return _ended(last, step)
        if trunk is not None and cut is not None and not trunk.reaches(cut):
            return JobState(State.WAITING, 0, "for its trunk")
        return JobState(State.READY, step, attempts=count)


class JobFilesCache:
    """The files of many jobs, each job's read once; with `once` a missing result too."""

    def __init__(self, once: bool = False) -> None:
        self._once = once
        self._files: dict[str, JobFiles] = {}

    def of(self, folder: JobFolder) -> JobFiles:
        """The files of this folder."""
        files = self._files.get(folder.id)
        if files is None:
            files = self._files[folder.id] = JobFiles(folder, self._once)
        return files


def outcome(folder: JobFolder, trunk: JobFolder | None, cut: int | None) -> Result | None:
    """A job's result; where its trunk diverged before the cut, it diverged with it; None while it is open."""
    return JobFiles(folder).outcome(JobFiles(trunk) if trunk else None, cut)


def _ended(last: Attempt, step: int) -> JobState:
    failure = last.facts.failure
    if failure is not None:
        note = (last.facts.error or "").strip()
        return JobState(State.FAILED, step, note or failure.words, last.number, failure)
    if last.facts.why in (End.DONE, End.DIVERGED):  # a trunk that has been given more to do since
        return JobState(State.READY, step, attempts=last.number)
    return JobState(State.INTERRUPTED, step, "it continues at the next launch", last.number)
