"""What a launch on Slurm shows: what was submitted, or the scripts that would be."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from sweepctl.launch.slurm.dispatch import Dispatched, Need
from sweepctl.launch.slurm.records import Array
from sweepctl.report.console import many, table
from sweepctl.report.launch_view import LINE_S, show_held, show_waiting
from sweepctl.spec.build import plain
from sweepctl.store.board import Board


def show_dispatched(
    out: Console, board: Board, held: list[str], done: Dispatched, stays: bool = False
) -> None:
    """What was submitted, what already was, and what the cluster would not take. `stays` where the launch
    itself waits for the end."""
    name = board.sweep.name
    rows = [
        [
            array_id,
            many(len(array.jobs), "task"),
            "held until its checkpoint" if array.held else "",
            _place(array),
        ]
        for array, array_id in done.arrays
    ]
    if rows:
        out.print(table("submitted", ["array", "tasks", "", "resources"], rows, left=4))
    told = [f"{many(done.submitted, 'job')} submitted in {many(len(done.arrays), 'array')}"]
    if done.queued:
        told.append(f"{done.queued} already queued or running")
    if done.released:
        told.append(f"{many(len(done.released), 'held task')} released")
    if done.cancelled:
        told.append(f"{many(len(done.cancelled), 'superfluous task')} cancelled")
    if not done.submitted and not done.queued and not done.unsubmitted and not done.exhausted:
        told = ["Nothing to submit: everything the plans want is there"]
    out.print(f"{'; '.join(told)}.")
    if done.unsubmitted:
        out.print(
            f"[yellow]{many(done.unsubmitted, 'job')} without a task of their own[/]: {done.why}. "
            "Running tasks take them too, tasks that end submit them, and so does the next launch.",
            soft_wrap=True,
        )
    if done.exhausted:
        out.print(
            f"[yellow]{many(len(done.exhausted), 'job')} failed and not taken up again[/]: "
            f"`sweepctl status {name}` says why, a launch with `--retry failed` tries again.",
            soft_wrap=True,
        )
    for pattern in done.idle_patterns:
        out.print(f"[yellow]rungs.{pattern} of the launcher matches no rung of this sweep.[/]")
    show_held(out, board, held)
    show_waiting(out, board.sweep)
    if not stays and (done.submitted or done.queued):
        out.print(f"Nothing has to stay open here. `sweepctl status {name}` says how it goes.")


class Waiting:
    """A line now and then while a launch waits for the end."""

    def __init__(self, out: Console, quiet: bool = False) -> None:
        self._out, self._quiet, self._said = out, quiet, 0.0

    def __call__(self, left: int, tasks: int) -> None:
        if self._quiet or (left and time.monotonic() - self._said < LINE_S):
            return
        self._said = time.monotonic()
        self._out.print(f"{many(left, 'job')} left, {many(tasks, 'task')} in the queue" if left else "Done.")


def dispatched_json(board: Board, held: list[str], done: Dispatched) -> dict[str, Any]:
    """The same facts."""
    return {
        "sweep": board.sweep.name,
        "held": held,
        "arrays": [
            {"id": i, "jobs": list(a.jobs), "held": a.held, "resources": plain(a.resources)}
            for a, i in done.arrays
        ],
        "submitted": done.submitted,
        "already_queued": done.queued,
        "released": done.released,
        "cancelled": done.cancelled,
        "exhausted": done.exhausted,
        "unsubmitted": done.unsubmitted,
        "why": done.why or None,
        "idle_patterns": done.idle_patterns,
    }


def show_rehearsal(out: Console, board: Board, planned: list[tuple[Array, str]], found: Need) -> None:
    """The scripts, whole, and what their tasks are meant for."""
    for array, text in planned:
        out.rule(
            f"{many(len(array.jobs), 'job')}, {_place(array)}{', held' if array.held else ''}", align="left"
        )
        out.print(text, markup=False, soft_wrap=True)
        shown = [f"{i}: {board.entries[job].name} ({job})" for i, job in enumerate(array.jobs[:12])]
        more = [f"and {len(array.jobs) - 12} more; --json lists them all"] if len(array.jobs) > 12 else []
        out.print("\n".join(["task", *shown, *more]), markup=False, soft_wrap=True)
    jobs = sum(len(array.jobs) for array, _ in planned)
    out.print(
        f"{many(jobs, 'job')} in {many(len(planned), 'sbatch call')} would be submitted; "
        f"{found.queued} already queued or running. Nothing was submitted."
    )


def rehearsal_json(planned: list[tuple[Array, str]], found: Need) -> dict[str, Any]:
    """The same facts."""
    return {
        "would_submit": [
            {"jobs": list(a.jobs), "held": a.held, "resources": plain(a.resources), "script": text}
            for a, text in planned
        ],
        "already_queued": found.queued,
        "exhausted": found.exhausted,
    }


def _place(array: Array) -> str:
    wanted = array.resources
    gpus = wanted.gres or (f"{wanted.gpus_per_node} GPU" if wanted.gpus_per_node else "no GPU")
    nodes = f"{wanted.nodes} nodes x {wanted.tasks_per_node} processes, " if wanted.processes > 1 else ""
    return f"{nodes}{gpus}, {wanted.time_min} min" + (f", {wanted.partition}" if wanted.partition else "")
