"""What runs inside a Slurm task: `python -m sweepctl.launch.slurm.task`, with $SWEEPCTL_ARRAY naming its
array.

The first process of a task supervises a worker; in a task of several processes the others keep a worker each
that follows the first one's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sweepctl.errors import StorageError, SweepctlError
from sweepctl.launch.slurm.patience import patiently
from sweepctl.launch.slurm.records import Array, Records, SlurmOrder, begin_task, end_task
from sweepctl.launch.slurm.restarts import REFUSED
from sweepctl.launch.slurm.supervisor import Supervisor
from sweepctl.launch.slurm.task_process import join_group, this_process
from sweepctl.launch.workers import SAFE_PATH, Gpu, worker_environment
from sweepctl.store.workspace import Workspace

START_RETRIES = 20
"""How often a task that begins asks a file system that refuses: a quarter of an hour."""


def follow(threads: int, gpu: Gpu | None) -> int:
    """Keep a worker that follows rank 0's, a new one whenever the group breaks."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # rank 0 is told too, and decides
    while True:
        command = [sys.executable, *SAFE_PATH, "-m", "sweepctl.train.worker"]
        worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=worker_environment(threads, gpu))
        if worker.wait() == 0:
            return 0
        time.sleep(1.0)


def read(records: Records, token: str) -> tuple[Array, SlurmOrder]:
    """What this task is of, and what was ordered."""
    array = records.own_array(token)
    return array, records.order(array.order)


def say(text: str) -> None:
    """A line in the task's log."""
    print(text, flush=True)


def main() -> int:
    """Run this process's part of the task; the exit code."""
    folder = Path(os.environ["SWEEPCTL_ARRAY"])
    workspace = Workspace(folder.parents[3])
    records = Records(workspace.sweep(folder.parents[2].name))
    array, order = patiently(lambda: read(records, folder.name), say, START_RETRIES)
    launcher = order.settings
    process = this_process(array.resources.time_min)
    if process.processes > 1:
        join_group()
    if process.rank > 0:
        mine = launcher.of_rung(array.rung)
        return follow(mine.execution.threads, mine.gpu)
    patiently(lambda: begin_task(folder, process.index, process.restart), say, START_RETRIES)
    records.write_id(array.token, process.array_id)  # the launch may have died before it could
    supervisor = patiently(lambda: Supervisor(process, records, array, order), say, START_RETRIES)
    code = supervisor.run()
    end_task(folder, process.index)
    return code


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except SweepctlError as error:
        print(f"sweepctl: {error}", file=sys.stderr)
        raise SystemExit(REFUSED if isinstance(error, StorageError) else error.exit_code) from None
