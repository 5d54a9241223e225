"""What the queue says of a sweep's submissions, and of the jobs they are meant for."""

from __future__ import annotations

import time

from sweepctl.launch.slurm import commands
from sweepctl.launch.slurm.records import Array, Records
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
        array_id = records.id(array.token) or (_adopt(records, array) if adopt and array.is_own else None)
        if array_id is not None:
            by_id[array_id] = array
    live = commands.squeue(by_id, {array_id: array.name for array_id, array in by_id.items()})
    tasks: dict[str, list[Task]] = {}
    present = set()
    for name, task in live.items():
        array_id, _, place = name.partition("_")
        present.add(array_id)
        if place.isdigit() and int(place) < len(by_id[array_id].jobs):
            tasks.setdefault(by_id[array_id].jobs[int(place)], []).append(task)
    for array_id in set(by_id) - present:
        array = by_id[array_id]
        if not array.is_own and "jobs" in config.get("PrivateData", ""):  # nothing follows from its absence
            hidden = "another user's, which Slurm hides"
            for index, job in enumerate(array.jobs):
                task = Task(f"{array_id}_{index}", TaskState.UNKNOWN, "UNKNOWN", hidden)
                tasks.setdefault(job, []).append(task)
        elif adopt and array.is_own:
            records.close(array.token, "none of its tasks is in the queue")
    return tasks


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
