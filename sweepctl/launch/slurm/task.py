"""What runs inside a Slurm task: `python -m sweepctl.launch.slurm.task`, with $SWEEPCTL_ARRAY naming its
array.

The first process of a task supervises a worker; in a task of several processes the others keep a worker each
that follows the first one's.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from submitit import JobEnvironment
from submitit.helpers import TorchDistributedEnvironment

from sweepctl.errors import SweepctlError
from sweepctl.launch.slurm.records import Array, Records, SlurmOrder, begin_task
from sweepctl.launch.workers import worker_environment
from sweepctl.spec.build import build
from sweepctl.store.files import read_json
from sweepctl.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process is: its array's folder, the task's id, index and restart, its rank in the task, and
    when the time limit ends it (seconds since the epoch)."""

    folder: Path
    array_id: str
    index: int
    restart: int
    rank: int
    processes: int
    ends: float

    @property
    def task(self) -> str:
        return f"{self.array_id}_{self.index}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.task}_0_log.out"


def find_place(time_min: int) -> Place:
    """The place that Slurm and submitit say."""
    here = JobEnvironment()
    array_id, _, index = here.job_id.partition("_")
    return Place(
        folder=Path(os.environ["SWEEPCTL_ARRAY"]),
        array_id=array_id,
        index=int(index or 0),
        restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        rank=here.global_rank,
        processes=here.num_tasks,
        ends=float(os.environ.get("SLURM_JOB_END_TIME") or time.time() + 60 * time_min),
    )


def join_group() -> None:
    """Set what torch.distributed reads; by address where nodes do not know each other by name."""
    made = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    try:
        socket.getaddrinfo(made.master_addr, None)
    except OSError:
        os.environ["MASTER_ADDR"] = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", made.master_addr)


def follow(threads: int) -> int:
    """Keep a worker that follows rank 0's, a new one whenever the group breaks."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # rank 0 is told too, and decides
    while True:
        command = [sys.executable, "-m", "sweepctl.train.worker"]
        worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=worker_environment(threads))
        if worker.wait() == 0:
            return 0
        time.sleep(1.0)


def main() -> int:
    """Run this process's part of the task; the exit code."""
    folder = Path(os.environ["SWEEPCTL_ARRAY"])
    workspace = Workspace(folder.parents[3])
    records = Records(workspace.sweep(folder.parents[2].name))
    array = build(Array, read_json(folder / "array.json"))
    order: SlurmOrder = records.order(array.order)
    launcher = order.settings
    place = find_place(array.resources.time_min)
    if place.processes > 1:
        join_group()
    if place.rank > 0:
        return follow(launcher.execution.threads)
    begin_task(folder, place.index, place.restart)
    records.write_id(array.token, place.array_id)  # the launch may have died before it could

    from sweepctl.launch.slurm.supervisor import Supervisor

    return Supervisor(place, records, array, order).run()


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except SweepctlError as error:
        print(f"sweepctl: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
