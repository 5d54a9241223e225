"""The processes that train one job together, as a trainer sees them; here the case of a single one.

Nothing here needs torch: `distributed.py` connects several.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from sweepctl.errors import SweepctlError
from sweepctl.store.ends import End

if TYPE_CHECKING:
    from torch import Tensor, nn

BROKEN = 75
"""Exit code where the processes have lost each other: start all of them anew."""


class Command(IntEnum):
    """What rank 0 tells the others to do."""

    JOB = 0
    UPDATE = 1
    EVALUATE = 2
    END_OF_JOB = 3
    END_OF_ALL = 4
    SAVE = 5


class ProcessesLost(SweepctlError):
    """The processes cannot go on together. `why` is the class of the failure: the machine's or the network's,
    unless a process left word that it was another."""

    exit_code = BROKEN

    def __init__(self, message: str, why: End = End.INFRASTRUCTURE) -> None:
        super().__init__(message)
        self.why = why


def out_of_memory(error: Exception) -> bool:
    """torch and its like raise RuntimeErrors that say it in words."""
    words = ("can't allocate memory", "out of memory", "bad_alloc", "cannot allocate memory")
    if isinstance(error, RuntimeError):
        return any(word in str(error).lower() for word in words)
    return isinstance(error, MemoryError)


_OF_THE_DEVICE = re.compile(
    r"CUDA error|HIP error|CUDA driver|CUDA unknown error|No (CUDA|HIP) GPUs|CUBLAS_STATUS_|HIPBLAS_STATUS_|"
    r"CUDNN_STATUS_|cuDNN error|MIOPEN|NCCL error|RCCL error|ECC error|device-side fault|GPU is lost"
)
_OF_THE_CODE = re.compile(
    r"device-side assert|no kernel image|invalid device function|invalid argument|invalid configuration|"
    r"NOT_SUPPORTED|INVALID_VALUE|BAD_PARAM|misaligned address|invalid resource handle",
    re.I,
)


def device_failed(error: Exception) -> bool:
    """Whether a GPU or its driver failed, and not what was asked of it: it may go well on another."""
    text = str(error)
    is_runtime = isinstance(error, RuntimeError)  # torch's own class of these errors is one
    return is_runtime and bool(_OF_THE_DEVICE.search(text)) and not _OF_THE_CODE.search(text)


class SingleProcess:
    """The processes of a job that one trains alone: every action is its own, nothing is shared."""

    rank = 0
    """This process's number; 0 decides."""
    size = 1
    """How many there are."""
    local_rank = 0
    """This process's number among those of its host, and that of its device there."""
    broken = False
    """Whether an action was begun and not finished: the others wait in the middle of it, for ever."""

    def __init__(self) -> None:
        self.hosts = [socket.gethostname()]

    def job(self, message: dict[str, Any]) -> AbstractContextManager[None]:
        """All processes make their trainers ready for the job that this message describes."""
        return nullcontext()

    def together(self, command: Command, first: int = 0, second: int = 0) -> AbstractContextManager[None]:
        """All processes do this together. Rank 0 tells the others, which then come here too."""
        return nullcontext()

    def share(self, model: nn.Module) -> nn.Module:
        """The model with gradients that are means over all processes."""
        return model

    def accumulating(self, shared: nn.Module) -> AbstractContextManager[Any]:
        """Backward passes that add to this process's own gradients only."""
        return nullcontext()

    def mean(self, x: Tensor) -> Tensor:
        """A tensor's mean over all processes; it may be overwritten."""
        return x

    def total(self, x: Tensor) -> Tensor:
        """A tensor's sum over all processes; it may be overwritten."""
        return x

    def begin_sum(self, x: Tensor, owner: int) -> Callable[[], object]:
        """Begin to sum a tensor over all processes in the owner's; the others' is spoilt. What is returned
        waits for the end of it."""
        return lambda: None

    def begin_copy(self, x: Tensor, owner: int) -> Callable[[], object]:
        """Begin to overwrite a tensor with the owner's. What is returned waits for the end of it."""
        return lambda: None

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all processes."""
        return list(values)

    def hand_over(self, x: Tensor, owner: int) -> None:
        """Overwrite rank 0's tensor with the owner's, both on the host. The others need not come here."""

    def end_job(self) -> None:
        """Nobody need keep the job's tensors."""
        with self.together(Command.END_OF_JOB):
            pass

    def end(self) -> None:
        """No job will come any more."""
