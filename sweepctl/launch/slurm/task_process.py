"""Which process of which Slurm task this is, and how it meets the others."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from submitit import JobEnvironment
from submitit.helpers import TorchDistributedEnvironment


@dataclass(frozen=True, slots=True)
class TaskProcess:
    """One process of a task of a job array."""

    folder: Path
    """The array's folder."""
    array_id: str
    """The array's id."""
    index: int
    """The task's place in it."""
    restart: int
    """How often Slurm has started the task again."""
    rank: int
    """The process's place in the task."""
    processes: int
    """How many the task has."""
    node: str
    """Where it is, as Slurm calls it."""
    ends: float
    """When the time limit ends it, in seconds since the epoch."""

    @property
    def task(self) -> str:
        return f"{self.array_id}_{self.index}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.task}_0_log.out"


def this_process(time_min: int) -> TaskProcess:
    """What Slurm and submitit say of this process."""
    here = JobEnvironment()
    array_id, _, index = here.job_id.partition("_")
    return TaskProcess(
        folder=Path(os.environ["SWEEPCTL_ARRAY"]),
        array_id=array_id,
        index=int(index or 0),
        restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        rank=here.global_rank,
        processes=here.num_tasks,
        node=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        ends=float(os.environ.get("SLURM_JOB_END_TIME") or time.time() + 60 * time_min),
    )


def join_group() -> None:
    """Set what torch.distributed reads; by address where nodes do not know each other by name."""
    group = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    try:
        socket.getaddrinfo(group.master_addr, None)
    except OSError:
        os.environ["MASTER_ADDR"] = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", group.master_addr)
