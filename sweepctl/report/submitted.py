"""What a launch that submits shows: its arrays, or the scripts that would be submitted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from sweepctl.launch.outcome import Submission, Submitted, ToSubmit
from sweepctl.report.console import BOLD, END, YELLOW, many, table
from sweepctl.report.launch_view import LINE_S, show_held, show_waiting
from sweepctl.store.sweep_jobs import SweepJobs

LISTED = 12
"""Jobs or tasks that are listed by name."""


def show_submitted(
    out: Console, sweep_jobs: SweepJobs, held_stages: list[str], outcome: Submitted, stays: bool = False
) -> None:
    """What was submitted, what already was, and what the scheduler would not take. `stays` where the launch
    itself waits for the end."""
    name = sweep_jobs.sweep.name
    written = [array for array in outcome.submissions if array.by_hand]
    waits = {True: "held until its checkpoint", False: ""}
    rows = [
        [array.id, many(len(array.jobs), "task"), waits[array.held], array.place]
        for array in outcome.submissions
        if not array.by_hand
    ]
    if rows:
        out.print(table("submitted", ["array", "tasks", "", "resources"], rows, left=4))
    for script in written:
        _show_commands(out, script)
    parts = [f"{many(outcome.submitted, 'job')} submitted in {many(len(rows), 'array')}"]
    if written:
        jobs = many(sum(len(script.jobs) for script in written), "job")
        parts = [f"{jobs} in {many(len(written), 'script')}, not submitted yet"]
    if outcome.queued:
        parts.append(f"{outcome.queued} already queued or running")
    if outcome.replaced:
        parts.append(f"{many(len(outcome.replaced), 'waiting task')} of other settings replaced")
    if outcome.released:
        parts.append(f"{many(len(outcome.released), 'held task')} released")
    if outcome.cancelled:
        names = listed(outcome.cancelled)
        parts.append(f"{many(len(outcome.cancelled), 'task')} with nothing left to do cancelled ({names})")
    if not (outcome.submissions or outcome.queued or outcome.unsubmitted or outcome.exhausted):
        parts = ["Nothing to submit: everything the plans want is there"]
    out.print(f"{'; '.join(parts)}.")
    if outcome.unsubmitted:
        out.print(
            f"{YELLOW}{many(outcome.unsubmitted, 'job')} without a task of their own{END}: {outcome.why}. "
            "Running tasks take them too, tasks that end submit them, and so does the next launch.",
            soft_wrap=True,
        )
    if outcome.exhausted:
        out.print(
            f"{YELLOW}{many(len(outcome.exhausted), 'job')} failed and not taken up again{END}: "
            f"`sweepctl status {name}` says why, a launch with `--retry failed` tries again.",
            soft_wrap=True,
        )
    if outcome.kept:
        out.print(
            f"{YELLOW}{many(len(outcome.kept), 'waiting task')} of other settings not replaced{END} "
            f"({listed(outcome.kept)}): {outcome.why}. The next launch tries again.",
            soft_wrap=True,
        )
    show_left_alone(out, outcome.left_alone)
    for pattern in outcome.idle_patterns:
        out.print(f"{YELLOW}rungs.{pattern} of the launcher matches no rung of this sweep.{END}")
    show_held(out, sweep_jobs, held_stages)
    show_waiting(out, sweep_jobs.sweep)
    if not stays and (outcome.submitted or outcome.queued):
        out.print(f"Nothing has to stay open here. `sweepctl status {name}` says how it goes.")


def listed(tasks: Sequence[str]) -> str:
    """The first of many tasks."""
    return " ".join([*tasks[:LISTED], *(["..."] if len(tasks) > LISTED else [])])


def show_left_alone(out: Console, tasks: Mapping[str, str]) -> None:
    """Tasks that a launch or a cancel could not touch, by why."""
    by_reason: dict[str, list[str]] = {}
    for task, why in tasks.items():
        by_reason.setdefault(why, []).append(task)
    for why, names in by_reason.items():
        out.print(
            f"{YELLOW}{many(len(names), 'task')} left alone{END} ({listed(names)}): {why}",
            soft_wrap=True,
        )


def _show_commands(out: Console, script: Submission) -> None:
    """How a person submits a script."""
    out.print(f"{BOLD}{script.id}{END}  {many(len(script.jobs), 'job')}, {script.place}", soft_wrap=True)
    for command in script.by_hand:
        out.print(f"  {command}", highlight=False, soft_wrap=True)


class Waiting:
    """A line now and then while a launch waits for the end."""

    def __init__(self, out: Console, quiet: bool = False) -> None:
        self._out, self._quiet, self._said = out, quiet, 0.0

    def __call__(self, left: int, tasks: int | None) -> None:
        if self._quiet or (left and time.monotonic() - self._said < LINE_S):
            return
        self._said = time.monotonic()
        queue = "the scheduler does not answer" if tasks is None else f"{many(tasks, 'task')} in the queue"
        self._out.print(f"{many(left, 'job')} left, {queue}" if left else "Done.")


def submitted_json(sweep_jobs: SweepJobs, held_stages: list[str], outcome: Submitted) -> dict[str, Any]:
    """The same facts."""
    return {
        "sweep": sweep_jobs.sweep.name,
        "held": held_stages,
        "arrays": [{"id": array.id, **_submission_json(array)} for array in outcome.submissions],
        "submitted": outcome.submitted,
        "already_queued": outcome.queued,
        "released": outcome.released,
        "cancelled": outcome.cancelled,
        "replaced": outcome.replaced,
        "kept": outcome.kept,
        "left_alone": outcome.left_alone,
        "exhausted": outcome.exhausted,
        "unsubmitted": outcome.unsubmitted,
        "why": outcome.why or None,
        "idle_patterns": outcome.idle_patterns,
    }


def show_scripts(out: Console, sweep_jobs: SweepJobs, rehearsal: ToSubmit) -> None:
    """The scripts, whole, and what their tasks are meant for."""
    for array in rehearsal.submissions:
        out.rule(
            f"{many(len(array.jobs), 'job')}, {array.place}{', held' if array.held else ''}", align="left"
        )
        out.print(array.script, soft_wrap=True)
        shown = [f"{i}: {sweep_jobs.by_id[job].name} ({job})" for i, job in enumerate(array.jobs[:LISTED])]
        rest = len(array.jobs) - LISTED
        more = [f"and {rest} more; --json lists them all"] if rest > 0 else []
        out.print("\n".join(["task", *shown, *more]), soft_wrap=True)
    by_hand = any(array.by_hand for array in rehearsal.submissions)
    unit, verb = ("script", "written") if by_hand else ("array", "submitted")
    jobs = many(sum(len(array.jobs) for array in rehearsal.submissions), "job")
    out.print(
        f"{jobs} in {many(len(rehearsal.submissions), unit)} would be {verb}; "
        f"{rehearsal.queued} already queued or running. Nothing was {verb}."
    )


def scripts_json(rehearsal: ToSubmit) -> dict[str, Any]:
    """The same facts."""
    return {
        "would_submit": [
            {**_submission_json(array), "script": array.script} for array in rehearsal.submissions
        ],
        "already_queued": rehearsal.queued,
        "exhausted": rehearsal.exhausted,
    }


def _submission_json(array: Submission) -> dict[str, Any]:
    facts = {"jobs": list(array.jobs), "held": array.held, "resources": dict(array.resources)}
    return facts | ({"submit": list(array.by_hand)} if array.by_hand else {})
