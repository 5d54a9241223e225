"""Put on workers' PYTHONPATH, makes the first checkpoints that they write fail: $TROUBLE says in which way,
how many, and in which folder they are counted. A full disk has no room for an attempt's last words either."""

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


def is_one_of_the_first(times: int, marks: str) -> bool:
    for number in range(times):
        try:
            os.close(os.open(f"{marks}/{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return True
    return False


def arm(kind: str, times: int, marks: str) -> None:
    records = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal records
        if event != "open" or args[1] != "w":
            return
        if "checkpoints/.step-" in str(args[0]) and is_one_of_the_first(times, marks):
            records += kind == "storage"
            raise trouble(kind)
        if records and "attempt.json" in str(args[0]):
            records -= 1
            raise trouble(kind)

    sys.addaudithook(hook)


if "TROUBLE" in os.environ and "sweepctl.train.worker" in sys.orig_argv:
    kind, times, marks = os.environ["TROUBLE"].split(maxsplit=2)
    arm(kind, int(times), marks)
