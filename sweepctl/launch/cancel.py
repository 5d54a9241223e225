"""Stop a sweep's jobs without touching what another sweep wants."""

from __future__ import annotations

from dataclasses import dataclass

from sweepctl.errors import unknown_name
from sweepctl.launch.launcher import launchers_of
from sweepctl.launch.logs import find_job
from sweepctl.launch.status import ORDER, full_status
from sweepctl.store import checkpoints
from sweepctl.store.board import Board


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancel comes to, as job ids."""

    cancelled: list[str]
    """Jobs that are to stop."""
    spared: list[str]
    """Jobs that go on for another sweep."""


def choose(board: Board, jobs: list[str] | None = None, states: list[str] | None = None) -> Cancelled:
    """The sweep's unfinished jobs; with `jobs` only these, with `states` only those that are in one of them.
    A trunk takes its branches with it.

    Raises:
        RequestError: a job is not one of the sweep's, or a word is no state.
    """
    only: set[str] | None = None
    if jobs:
        only = {find_job(board, job).job.id for job in jobs}
    if states:
        for state in states:
            if state not in ORDER:
                raise unknown_name("state", state, ORDER)
        in_state = {entry.job.id for entry, _ in full_status(board).in_state(*states)}
        only = in_state if only is None else only & in_state
    elsewhere = board.sweep.workspace.wanted_elsewhere(board.sweep.name)
    chosen = [e.job.id for e in board.unfinished() if only is None or e.job.id in only or e.job.trunk in only]
    return Cancelled([j for j in chosen if j not in elsewhere], [j for j in chosen if j in elsewhere])


def cancel(board: Board, choice: Cancelled | None = None) -> Cancelled:
    """Withdraw the sweep's wishes for these jobs, mark them as cancelled, and take back the tasks that wait
    for them; whoever trains one for this sweep saves its state and stops."""
    choice = choice or choose(board)
    board.sweep.mark_cancelled(choice.cancelled)
    cancelled = set(choice.cancelled)
    for trunk_id, branches in board.branches.items():
        withdrawn = {entry.job.id for entry in branches} & cancelled
        if withdrawn:  # wishes for what is saved stay: they keep the checkpoints
            trunk = board.entries[trunk_id].folder
            trunk.withdraw(board.sweep.name, withdrawn, checkpoints.steps(trunk))
    for launcher in launchers_of(board.sweep):
        launcher.cancel(board.sweep, cancelled)
    return choice
