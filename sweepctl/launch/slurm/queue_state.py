"""What the queue says of a sweep's submissions, and of the jobs they are meant for."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from sweepctl.launch.slurm import commands
from sweepctl.launch.slurm.records import Array, Records, has_ended
from sweepctl.launch.tasks import Task, TaskState

IN_FLIGHT_S = 15.0
"""How long one waits for the sbatch of a launch that was killed."""
LOST_S = 3600.0
"""How long it may come after all: its name is looked for again."""


def read_queue(records: Records, adopt: bool = False) -> dict[str, list[Task]]:
    """Job -> its live tasks. With `adopt`, submissions whose id nobody learned are looked for by name."""
    arrays = records.arrays()
    if not arrays:
        return {}
    config = commands.settings()
    by_id: dict[str, Array] = {}
    for array in arrays:
        if array.cluster != config.get("ClusterName", ""):
            continue
        array_id = records.id(array.token) or (_adopt(records, array) if adopt else None)
        if array_id is not None:
            by_id[array_id] = array
    live = commands.squeue(by_id, {array_id: array.name for array_id, array in by_id.items()})
    tasks: dict[str, list[Task]] = {}
    present = set()
    for name, task in live.items():
        array_id, _, place = name.partition("_")
        present.add(array_id)
        if place.isdigit() and int(place) < len(by_id[array_id].jobs):
            array = by_id[array_id]
            doing = _doing(task, records.array_folder(array.token) / "tasks" / f"{place}.job")
            placed = replace(task, owner=array.owner, doing=doing or task.doing)
            tasks.setdefault(array.jobs[int(place)], []).append(placed)
    for array_id in set(by_id) - present:
        array = by_id[array_id]
        if not array.is_own and "jobs" in config.get("PrivateData", ""):  # nothing follows from its absence
            hidden = "another user's, which Slurm hides"
            folder = records.array_folder(array.token)
            for index, job in enumerate(array.jobs):
                if not has_ended(array, folder, index):
                    name = f"{array_id}_{index}"
                    task = Task(name, TaskState.UNKNOWN, "UNKNOWN", hidden, owner=array.owner)
                    tasks.setdefault(job, []).append(task)
        elif adopt and array.is_own:
            records.close(array.token, "none of its tasks is in the queue")
    return tasks


def _doing(task: Task, hand: Path) -> str:
    """What a task does that has a node and trains nothing; empty where that is told by its job in hand."""
    if task.word in ("SUSPENDED", "STOPPED"):
        return "is suspended"
    if task.word == "CONFIGURING":
        return "waits for its node to boot"
    return "" if task.pending or hand.exists() else "is starting"


def late_tasks(records: Records) -> list[str]:
    """Our tasks that wait in the queue though their array was given up: it arrived when nobody waited for it
    any more. Nothing is left for them to do."""
    closed = records.closed_names()
    if not closed:
        return []
    waiting = commands.ours_waiting()
    return [task for task, array_name in waiting.items() if array_name in closed]


def _adopt(records: Records, array: Array) -> str | None:
    """The id of a submission whose launch died before it could write it down. Its sbatch may outlive it by a
    moment; what comes later than that is found by a later dispatch. A colleague's is not waited for."""
    while True:
        ids = commands.arrays_named(array.name)
        if not array.is_own:
            return min(ids, default=None)
        if ids:
            records.write_id(array.token, min(ids))
            return min(ids)
        age = time.time() - float(array.by.get("at", 0.0))
        if age > LOST_S:
            records.close(array.token, "it never reached the queue")
        if age > IN_FLIGHT_S:
            return None
        time.sleep(1.0)
