"""Stop a sweep's jobs without touching what another sweep wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sweepctl.errors import unknown_name
from sweepctl.launch.logs import find_job
from sweepctl.launch.status import ORDER, SweepStatus
from sweepctl.store import checkpoints
from sweepctl.store.board import Board


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Job ids: those to stop, and those that go on for another sweep."""

    cancelled: list[str]
    spared: list[str]


def choose(
    board: Board,
    jobs: list[str] | None = None,
    states: list[str] | None = None,
    look: Callable[[Board], SweepStatus] | None = None,
) -> Cancelled:
    """The sweep's unfinished jobs; with `jobs` only these, with `states` only those that `look` finds in one.
    A trunk takes its branches with it.

    Raises:
        RequestError: a job is not one of the sweep's, or a word is no state.
    """
    only: set[str] | None = None
    if jobs:
        only = {find_job(board, job).job.id for job in jobs}
    if states and look is not None:
        for state in states:
            if state not in ORDER:
                raise unknown_name("state", state, ORDER)
        inside = {entry.job.id for entry, found in look(board).jobs if found.state in states}
        only = inside if only is None else only & inside
    elsewhere = board.sweep.workspace.wanted_elsewhere(board.sweep.name)
    chosen = [e.job.id for e in board.unfinished() if only is None or e.job.id in only or e.job.trunk in only]
    return Cancelled([j for j in chosen if j not in elsewhere], [j for j in chosen if j in elsewhere])


def cancel(board: Board, found: Cancelled | None = None) -> Cancelled:
    """Withdraw the sweep's wishes for these jobs and mark them as cancelled; whoever trains one for this
    sweep saves its state and stops."""
    found = found or choose(board)
    board.sweep.mark_cancelled(found.cancelled)
    cancelled = set(found.cancelled)
    for trunk_id, branches in board.branches.items():
        withdrawn = {entry.job.id for entry in branches} & cancelled
        if withdrawn:  # wishes for what is saved stay: they keep the checkpoints
            trunk = board.entries[trunk_id].folder
            trunk.withdraw(board.sweep.name, withdrawn, checkpoints.steps(trunk))
    return found
