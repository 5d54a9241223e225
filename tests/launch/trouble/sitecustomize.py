"""Put on a worker's PYTHONPATH, makes the first checkpoints that it writes fail: $TROUBLE says in which way
and how many ("storage 2")."""

import errno
import os
import sys
from typing import Any


def trouble(kind: str) -> BaseException:
    if kind == "failed":
        return RuntimeError("a fault of the test")
    if kind == "out_of_memory":
        return MemoryError("no 3 GB")
    if kind == "storage":
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    from sweepctl.train.processes import ProcessesLost

    return ProcessesLost("Rank 0 of 2 lost the others.")


def arm(kind: str, times: int) -> None:
    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal times
        if times and event == "open" and args[1] == "w" and "checkpoints/.step-" in str(args[0]):
            times -= 1
            raise trouble(kind)

    sys.addaudithook(hook)


if "TROUBLE" in os.environ and "sweepctl.train.worker" in sys.orig_argv:
    kind, times = os.environ["TROUBLE"].split()
    arm(kind, int(times))
