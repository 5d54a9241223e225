"""Where a sweep stands, from files alone."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field

from sweepctl.store import attempts
from sweepctl.store.board import Board, Entry
from sweepctl.store.state import JobState

ORDER = ("done", "diverged", "running", "ready", "interrupted", "waiting", "cancelled", "failed")


@dataclass(slots=True)
class RungStatus:
    """One rung of one stage: jobs by state, and exact training FLOPs done and wanted."""

    stage: str
    rung: str
    states: Counter[str] = field(default_factory=Counter)
    flops_done: float = 0.0
    flops: float = 0.0


@dataclass(slots=True)
class SweepStatus:
    """The sweep: its rungs, every job's state, and what is wrong."""

    rungs: list[RungStatus]
    jobs: list[tuple[Entry, JobState]]
    device_s: float = 0.0

    def in_state(self, *states: str) -> list[tuple[Entry, JobState]]:
        return [(entry, state) for entry, state in self.jobs if state.state in states]

    @property
    def complete(self) -> bool:
        return not any(state.state not in ("done", "diverged") for _, state in self.jobs)


def status(board: Board) -> SweepStatus:
    """Every job's state, summed by stage and rung."""
    rungs: dict[tuple[str, str], RungStatus] = {}
    found = SweepStatus([], [])
    cancelled = board.sweep.cancelled()
    for entry in board.entries.values():
        state = board.state(entry)
        if entry.job.id in cancelled and state.state in ("ready", "interrupted", "waiting"):
            state = dataclasses.replace(state, state="cancelled")
        found.jobs.append((entry, state))
        key = (entry.plan.stage, entry.plan.rung_of(entry.job).name)
        row = rungs.setdefault(key, RungStatus(*key))
        row.states[state.state] += 1
        row.flops += entry.flops
        row.flops_done += entry.flops * _share(entry, state)
        if state.attempts:
            found.device_s += sum(a.record.get("train_s") or 0.0 for a in attempts.every(entry.folder))
    found.rungs = list(rungs.values())
    return found


def _share(entry: Entry, state: JobState) -> float:
    if state.state in ("done", "diverged"):
        return 1.0
    first = (entry.job.cut or 0) if entry.job.kind == "branch" else 0
    return min(1.0, max(0.0, (state.step - first) / max(1, entry.steps_to_train)))
