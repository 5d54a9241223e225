"""Where a job stands, read from its files alone. Reading never changes a state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sweepctl.store import attempts, checkpoints
from sweepctl.store.job import JobFolder

FAILURES = ("failed", "request", "storage", "out_of_memory", "infrastructure", "crashed")
"""Classes of failed attempts: a Python error, a request that cannot be met, a file system that refuses,
memory that was not there, a machine or network that did not do its part, a process that kept dying."""

State = Literal["done", "diverged", "running", "failed", "interrupted", "ready", "waiting", "cancelled"]


@dataclass(frozen=True, slots=True)
class JobState:
    """One job's state. `step` is how far it is known to be; `note` says why it failed or waits, `failure` the
    class of a failed one."""

    state: State
    step: int = 0
    note: str = ""
    attempts: int = 0
    failure: str = ""


def trunk_reaches(trunk: JobFolder, cut: int, saved: list[int] | None = None) -> bool:
    """Whether a branch with this cut can start: its checkpoint is there, or the trunk has passed the cut
    (the branch then trains the piece from the nearest earlier checkpoint in its own folder)."""
    if cut == 0:
        return True
    steps = checkpoints.steps(trunk) if saved is None else saved
    if any(step >= cut for step in steps):
        return True
    diverged = trunk.result()
    return diverged is not None and cut < diverged["step"]


def trunk_diverged_before(trunk: JobFolder, cut: int) -> bool:
    """Whether the trunk had diverged by the cut: its branch then diverged with it. The step alone decides,
    not which checkpoints are left, so that the order of asking does not matter."""
    diverged = trunk.result()
    return diverged is not None and diverged["step"] <= cut


def outcome(folder: JobFolder, trunk: JobFolder | None, cut: int | None) -> dict[str, Any] | None:
    """A job's result; where its trunk diverged before the cut, it diverged with it; None while it is open."""
    result = folder.result()
    if result is None and trunk is not None and trunk_diverged_before(trunk, cut or 0):
        return {"state": "diverged", "reason": "its trunk diverged before the cut"}
    return result


def state_of(
    folder: JobFolder, trunk: JobFolder | None = None, cut: int | None = None, end: int | None = None
) -> JobState:
    """The state of a job of a plan: `cut` and its `trunk` for a branch, the last cut as `end` for a trunk."""
    result = outcome(folder, trunk, cut)
    last = attempts.newest(folder)
    count = last.number if last else 0
    if result is not None:
        reason = str(result.get("reason", ""))
        return JobState(result["state"], int(result.get("step", 0)), reason, count)
    saved = checkpoints.steps(folder)
    step = max(saved, default=0)
    if last is not None and last.alive():
        return JobState("running", max(step, int(last.progress().get("step", 0))), attempts=count)
    if trunk is None and end is not None and step >= end:
        return JobState("done", step, attempts=count)
    if last is not None:
        return _ended(last.record, step, count)
    if trunk is not None and cut is not None and not trunk_reaches(trunk, cut):
        return JobState("waiting", 0, "for its trunk")
    return JobState("ready", step, attempts=count)


def _ended(record: dict[str, Any], step: int, count: int) -> JobState:
    why = record.get("why")
    note = str(record.get("error", "")).strip()
    if why in FAILURES:
        return JobState("failed", step, note or str(why), count, str(why))
    if why in ("done", "diverged"):  # a trunk that has been given more to do since
        return JobState("ready", step, attempts=count)
    return JobState("interrupted", step, "it continues at the next launch", count)
