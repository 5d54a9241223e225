"""What the queue says of a sweep's submissions, and of the jobs they are meant for."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace

from sweepctl.launch.queue import Queued
from sweepctl.launch.slurm import commands
from sweepctl.launch.slurm.commands import SlurmError
from sweepctl.launch.slurm.records import Array, Records
from sweepctl.launch.status import SweepStatus
from sweepctl.launch.status import status as read_status
from sweepctl.store import attempts
from sweepctl.store.board import Board
from sweepctl.store.state import State
from sweepctl.store.workspace import Sweep

IN_FLIGHT_S = 15.0
"""How long one waits for the sbatch of a launch that was killed."""
LOST_S = 3600.0
"""How long it may come after all: its name is looked for again."""
ASKED = 200
"""Ended tasks that sacct is asked about."""


def status(board: Board) -> SweepStatus:
    """Where the sweep stands: its files, then squeue where it has submissions, then sacct where there is one.
    Changes nothing; where Slurm does not answer, the files alone speak, and it says so."""
    records = Records(board.sweep)
    notes: list[str] = []
    queue: Mapping[str, Queued] = {}
    if records.arrays():
        try:
            queue = {job: _best(tasks) for job, tasks in read_queue(records).items()}
        except SlurmError as error:
            notes.append(f"Slurm does not answer, so this is from files alone. {error}")
    found = read_status(board, queue)
    if left := records.unsubmitted():
        told = f"{left['jobs']} jobs without a task of their own ({left['why']}): "
        notes.append(told + "tasks that end submit them, and so does the next launch.")
    _explain(found)
    if found.other_code:
        notes.append(f"{found.other_code} jobs were trained by other code than they were submitted with.")
    found.notes = notes
    return found


def cancel_tasks(sweep: Sweep, jobs: set[str]) -> None:
    """Take back the tasks that wait in the queue for these jobs, or for some that no plan wants. One that
    runs sees the cancel itself, saves, and goes on with another job."""
    records = Records(sweep)
    if jobs and records.arrays():
        wanted = sweep.job_ids() - jobs
        queue = read_queue(records)
        waiting = [q.task for job, tasks in queue.items() if job not in wanted for q in tasks if q.pending]
        if waiting:
            commands.scancel(waiting)


def _best(tasks: list[Queued]) -> Queued:
    """Of several tasks that are meant for one job, the one that is furthest."""
    return min(tasks, key=lambda task: (task.held, task.pending))


def _explain(found: SweepStatus) -> None:
    """Put Slurm's word on jobs whose task ended without one of its own."""
    places: dict[int, str] = {}
    for place, (entry, state) in enumerate(found.jobs):
        if state.state is State.INTERRUPTED and len(places) < ASKED:
            last = attempts.newest(entry.folder)
            if last is not None and not last.ended and last.facts.scheduler_id:
                places[place] = last.facts.scheduler_id
    ends = commands.sacct(places.values())
    for place, task in places.items():
        if task in ends:
            entry, state = found.jobs[place]
            note = f"task {task} ended as {ends[task]}; {state.note}"
            found.jobs[place] = (entry, replace(state, note=note))


def read_queue(records: Records, adopt: bool = False) -> dict[str, list[Queued]]:
    """Job -> its live tasks. With `adopt`, submissions whose id nobody learned are looked for by name."""
    arrays = records.arrays()
    if not arrays:
        return {}
    config = commands.settings()
    known: dict[str, Array] = {}
    for array in arrays:
        if array.cluster != config.get("ClusterName", ""):
            continue
        array_id = records.id(array.token) or (_adopt(records, array) if adopt else None)
        if array_id is not None:
            known[array_id] = array
    live = commands.squeue(known, {array_id: array.name for array_id, array in known.items()})
    found: dict[str, list[Queued]] = {}
    seen = set()
    for task, queued in live.items():
        array_id, _, index = task.partition("_")
        seen.add(array_id)
        if index.isdigit() and int(index) < len(known[array_id].jobs):
            found.setdefault(known[array_id].jobs[int(index)], []).append(queued)
    for array_id in set(known) - seen:
        foreign = known[array_id].by.get("user", os.getuid()) != os.getuid()
        if foreign and "jobs" in config.get("PrivateData", ""):  # nothing follows from its absence
            for place, job in enumerate(known[array_id].jobs):
                unknown = Queued(f"{array_id}_{place}", "UNKNOWN", "another user's, which Slurm hides")
                found.setdefault(job, []).append(unknown)
        elif adopt:
            records.close(known[array_id].token, "none of its tasks is in the queue")
    return found


def _adopt(records: Records, array: Array) -> str | None:
    """The id of a submission whose launch died before it could write it down. Its sbatch may outlive it by a
    moment; what comes later than that is found by a later dispatch."""
    while True:
        ids = commands.arrays_named(array.name)
        if ids:
            records.write_id(array.token, min(ids))
            return min(ids)
        age = time.time() - float(array.by.get("at", 0.0))
        if age > LOST_S:
            records.close(array.token, "it never reached the queue")
        if age > IN_FLIGHT_S:
            return None
        time.sleep(1.0)
