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

from sweepctl.errors import SweepctlError
from sweepctl.launch.slurm.records import Records, SlurmOrder, begin_task, end_task
from sweepctl.launch.slurm.supervisor import Supervisor
from sweepctl.launch.slurm.task_process import join_group, this_process
from sweepctl.launch.workers import SAFE_PATH, Gpu, worker_environment
from sweepctl.store.workspace import Workspace


def follow(threads: int, gpu: Gpu | None) -> int:
    """Keep a worker that follows rank 0's, a new one whenever the group breaks."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # rank 0 is told too, and decides
    while True:
        command = [sys.executable, *SAFE_PATH, "-m", "sweepctl.train.worker"]
        worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=worker_environment(threads, gpu))
        if worker.wait() == 0:
            return 0
        time.sleep(1.0)


def main() -> int:
    """Run this process's part of the task; the exit code."""
    folder = Path(os.environ["SWEEPCTL_ARRAY"])
    workspace = Workspace(folder.parents[3])
    records = Records(workspace.sweep(folder.parents[2].name))
    array = records.own_array(folder.name)
    order: SlurmOrder = records.order(array.order)
    launcher = order.settings
    process = this_process(array.resources.time_min)
    if process.processes > 1:
        join_group()
    if process.rank > 0:
        mine = launcher.of_rung(array.rung)
        return follow(mine.execution.threads, mine.gpu)
    begin_task(folder, process.index, process.restart)
    records.write_id(array.token, process.array_id)  # the launch may have died before it could
    code = Supervisor(process, records, array, order).run()
    end_task(folder, process.index)
    return code


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except SweepctlError as error:
        print(f"sweepctl: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
