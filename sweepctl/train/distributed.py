"""One job on several processes: rank 0 decides, the others do the same arithmetic on their rows.

Weights are replicated, and moments unless they are shared out (`sharding.py`): rank 0 alone claims, logs,
judges and saves, and gathers what others keep. Before every collective action it tells the others what comes
(three integers; a job's manifest lies in the rendezvous store), and after it all of them meet, so that a
process that died is noticed on the host and not by a GPU that waits for it.

Whoever starts the processes sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import json
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sweepctl.errors import RequestError
from sweepctl.store.ends import End
from sweepctl.train.processes import Command, ProcessesLost, SingleProcess, out_of_memory

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store, Work

SILENCE = timedelta(minutes=10)
"""How long a process waits for the others within one action, or for them to come up."""
IDLE = timedelta(days=30)
"""How long a follower waits to be told something: rank 0 may have no job, or a large checkpoint to write. A
rank 0 that died is noticed at once, by its closed connection."""


class ProcessGroup(SingleProcess):
    """This process's place among the processes of a job, connected to them."""

    def __init__(self, store: Store, rank: int, size: int, local_rank: int) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._store, self._jobs = store, 0
        gpus = dist.is_nccl_available() and torch.cuda.is_available()
        with self._noticing_losses():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if gpus else "gloo",
                store=store,
                rank=rank,
                world_size=size,
                timeout=SILENCE,
            )
            self._control = dist.new_group(backend="gloo", timeout=IDLE)
            store.set(f"host/{rank}", socket.gethostname())
            self._meet()
            self.hosts = [store.get(f"host/{other}").decode() for other in range(size)]

    @contextmanager
    def job(self, message: dict[str, Any]) -> Iterator[None]:
        if self.rank == 0:
            self._jobs += 1
            self._store.set(f"job/{self._jobs}", json.dumps(message))
        with self.together(Command.JOB, self._jobs):
            yield

    def job_message(self, number: int) -> dict[str, Any]:
        """What rank 0 said of its job of this number."""
        message: dict[str, Any] = json.loads(self._store.get(f"job/{number}"))
        return message

    def next_command(self) -> tuple[Command, int, int]:
        """Wait for rank 0's next command."""
        message = torch.empty(3, dtype=torch.int64)
        with self._noticing_losses():
            dist.broadcast(message, 0, group=self._control)
        command, first, second = message.tolist()
        return Command(command), first, second

    @contextmanager
    def together(self, command: Command, first: int = 0, second: int = 0) -> Iterator[None]:
        if self.broken:
            raise ProcessesLost("The processes of this group lost each other before; start all of them anew.")
        self.broken = True
        with self._noticing_losses():
            if self.rank == 0:
                dist.broadcast(torch.tensor([command, first, second]), 0, group=self._control)
            yield
            self._meet()
        self.broken = False

    def share(self, model: nn.Module) -> nn.Module:
        with warnings.catch_warnings():  # torch 2.13 has another name for broadcast_buffers
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def accumulating(self, shared: nn.Module) -> AbstractContextManager[Any]:
        assert isinstance(shared, DistributedDataParallel)
        return shared.no_sync()

    def mean(self, x: Tensor) -> Tensor:
        return self.total(x) / self.size

    def total(self, x: Tensor) -> Tensor:
        dist.all_reduce(x)
        return x

    def begin_sum(self, x: Tensor, owner: int) -> Callable[[], object]:
        return _waiting(dist.reduce(x, owner, async_op=True))

    def begin_copy(self, x: Tensor, owner: int) -> Callable[[], object]:
        return _waiting(dist.broadcast(x, owner, async_op=True))

    def hand_over(self, x: Tensor, owner: int) -> None:
        if self.rank == 0:
            dist.recv(x, owner)
        else:
            dist.send(x, 0)

    def sum(self, *values: float) -> list[float]:
        totals = torch.tensor(values, dtype=torch.float64)
        self._reduce(totals)
        return totals.tolist()

    def end(self) -> None:
        with suppress(ProcessesLost), self.together(Command.END_OF_ALL):  # who has heard it may be gone
            pass

    def report_failure(self, error: Exception) -> None:
        """Say why this process cannot go on, for rank 0 to find when it misses it. The first word counts."""
        why = End.OUT_OF_MEMORY if out_of_memory(error) else End.INFRASTRUCTURE
        text = f"Rank {self.rank} of {self.size} on {socket.gethostname()} failed: {_sentence(error)}"
        with suppress(dist.DistError):  # rank 0 is gone too
            self._store.compare_set("failure", "", json.dumps([text, why]))

    def _meet(self) -> None:
        self._reduce(torch.zeros(1))

    def _reduce(self, x: Tensor) -> None:
        """Sum on the hosts. The group is as patient as a follower; within an action nobody need be."""
        work = dist.all_reduce(x, group=self._control, async_op=True)
        assert work is not None
        work.wait(SILENCE)

    @contextmanager
    def _noticing_losses(self) -> Iterator[None]:
        """Tell a lost connection, in one sentence, from errors that are this process's own."""
        try:
            yield
        except RuntimeError as error:
            if not _of_the_network(error):
                raise
            if self.rank == 0 and self._store.check(["failure"]):
                message, end = json.loads(self._store.get("failure"))
                raise ProcessesLost(message, End(end)) from None
            who = f"Rank {self.rank} of {self.size} lost the others"
            raise ProcessesLost(f"{who}: {_sentence(error)}") from None


def connect() -> SingleProcess:
    """This process's place among those of a job, by the environment, all of them connected.

    Raises:
        ProcessesLost: they did not come up.
        RequestError: the environment does not say where they are.
    """
    size = int(os.environ.get("WORLD_SIZE") or 1)
    if size == 1:
        return SingleProcess()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise RequestError(f"WORLD_SIZE is {size}, but {' and '.join(missing)} is not set.")
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK") or 0)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store: Store = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, size, rank == 0, timeout=SILENCE
        )
    except dist.DistError as error:
        where = f"{address}:{port}"
        message = f"Rank {rank} did not meet the {size} processes at {where}: {_sentence(error)}"
        raise ProcessesLost(message) from None
    return ProcessGroup(store, rank, size, local)


def _waiting(work: Work | None) -> Callable[[], object]:
    assert work is not None
    return work.wait


def _of_the_network(error: RuntimeError) -> bool:
    """Gloo has no class of its own for a peer that is gone or silent; its name is in every message."""
    return isinstance(error, dist.DistError) or any(
        sign in str(error) for sign in ("gloo", "Operation timed out!")
    )


def _sentence(error: Exception) -> str:
    """The first sentence of an error, without the place in torch's sources."""
    text = re.sub(r"^\[\S+\] ", "", str(error)).splitlines() or [type(error).__name__]
    return text[0].partition(". ")[0].rstrip(".") + "."
