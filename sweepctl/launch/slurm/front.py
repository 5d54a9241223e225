"""`sweepctl launch --on slurm`, in three calls: the order, what it would submit, and submitting it."""

from __future__ import annotations

from sweepctl.launch.retry import Retry
from sweepctl.launch.slurm import dispatch
from sweepctl.launch.slurm.dispatch import Dispatched, Need
from sweepctl.launch.slurm.records import Array, Order, Records
from sweepctl.resources import code_version
from sweepctl.spec.build import plain
from sweepctl.spec.slurm import SlurmLauncher
from sweepctl.store.board import Board


def order(board: Board, held: list[str], again: Retry, launcher: SlurmLauncher) -> Order:
    """What is asked for: the board's plans, these settings, and a new start for these failures."""
    hashes = board.sweep.stage_hashes()
    plans = {stage: plan.hash for stage, plan in board.plans.items()}
    return Order(
        plans=plans | {stage: hashes[stage] for stage in held},
        held=tuple(held),
        launcher=plain(launcher),
        code=code_version(),
        forgiven=again.forgiven,
    )


def rehearse(board: Board, order: Order) -> tuple[list[tuple[Array, str]], Need]:
    """What would be submitted, as arrays and their scripts; nothing is."""
    return dispatch.rehearse(Records(board.sweep), order, board)


def launch(board: Board, order: Order, again: Retry) -> Dispatched:
    """Submit what has no task yet."""
    board.sweep.uncancel()
    again.apply()
    board.make_wishes(order.settings.execution.keep)
    records = Records(board.sweep)
    records.write_order(order)
    return dispatch.dispatch(records, order, board)
