"""`sweepctl launch --on slurm`, in three calls: the order, what it would submit, and submitting it."""

from __future__ import annotations

import time
from collections.abc import Callable

from sweepctl.errors import RequestError
from sweepctl.launch.retry import Retry
from sweepctl.launch.slurm import dispatch
from sweepctl.launch.slurm.dispatch import Dispatched, Need
from sweepctl.launch.slurm.reading import read_queue
from sweepctl.launch.slurm.records import Array, Order, Records
from sweepctl.launch.slurm.settings import SlurmSettings
from sweepctl.resources import code_version
from sweepctl.spec.build import plain
from sweepctl.store.board import Board


def order(board: Board, held: list[str], launcher: SlurmSettings) -> Order:
    """What is asked for: the board's plans and these settings.

    Raises:
        RequestError: Slurm would not write logs into this workspace.
    """
    if "%" in str(board.sweep.folder) or "\\" in str(board.sweep.folder):
        pattern = "a character of Slurm's file patterns (% or \\)"
        raise RequestError(f"{board.sweep.folder} holds {pattern}; move the workspace.")
    hashes = board.sweep.stage_hashes()
    plans = {stage: plan.hash for stage, plan in board.plans.items()}
    return Order(
        plans=plans | {stage: hashes[stage] for stage in held},
        held=tuple(held),
        launcher=plain(launcher),
        code=code_version(),
    )


def rehearse(board: Board, order: Order) -> tuple[list[tuple[Array, str]], Need]:
    """What would be submitted, as arrays and their scripts; nothing is."""
    return dispatch.rehearse(Records(board.sweep), order, board)


def launch(board: Board, order: Order, again: Retry) -> Dispatched:
    """Submit what has no task yet; failures that are forgiven get a new start.

    Raises:
        RequestError: Slurm refuses the jobs.
    """
    board.sweep.uncancel()
    again.apply()
    board.make_wishes(order.settings.execution.keep)
    records = Records(board.sweep)
    records.write_order(order)
    records.forgive(again.forgiven)
    return dispatch.dispatch(records, order, board)


WAIT_S = 5.0


def wait(board: Board, progress: Callable[[int, int], None]) -> list[str]:
    """Look every few seconds until nothing of the board is left, or nothing that is left runs or is about to
    run; the jobs that are left then. `progress` is told how many are left, and how many tasks are in the
    queue."""
    records = Records(board.sweep)
    while True:
        # The queue first: a task that ends between the two looks has finished its jobs by the second.
        tasks = [task for tasks in read_queue(records).values() for task in tasks if not task.held]
        left = [entry.job.id for entry in board.unfinished()]
        progress(len(left), len(tasks))
        if not left or not tasks:
            return left
        time.sleep(WAIT_S)
