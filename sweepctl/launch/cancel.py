"""Stop a sweep's jobs without touching what another sweep wants."""

from __future__ import annotations

from dataclasses import dataclass

from sweepctl.errors import unknown_name
from sweepctl.store import checkpoints
from sweepctl.store.board import Board


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Job ids: those told to stop, and those that go on for another sweep."""

    cancelled: list[str]
    spared: list[str]


def cancel(board: Board, only: list[str] | None = None) -> Cancelled:
    """Withdraw the sweep's wishes and mark its unfinished jobs as cancelled; whoever trains one for this
    sweep saves its state and stops.

    Raises:
        RequestError: a job of `only` is not one of the sweep's.
    """
    for job in only or ():
        if job not in board.entries:
            raise unknown_name(f"job in sweep {board.sweep.name}", job, board.entries)
    elsewhere = board.sweep.workspace.wanted_elsewhere(board.sweep.name)
    chosen = [
        e for e in board.unfinished() if only is None or e.job.id in only or e.job.trunk in (only or ())
    ]
    spared = [entry.job.id for entry in chosen if entry.job.id in elsewhere]
    gone = [entry for entry in chosen if entry.job.id not in elsewhere]
    board.sweep.mark_cancelled(entry.job.id for entry in gone)
    cancelled = {entry.job.id for entry in gone}
    for trunk_id, branches in board.branches.items():
        withdrawn = {entry.job.id for entry in branches} & cancelled
        if withdrawn:  # wishes for what is saved stay: they keep the checkpoints
            trunk = board.entries[trunk_id].folder
            trunk.withdraw(board.sweep.name, withdrawn, checkpoints.steps(trunk))
    return Cancelled([entry.job.id for entry in gone], spared)
