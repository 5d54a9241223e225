"""What a trainer is to a job: the only door through which jobs, their loop and followers reach one.

A trainer is made from a job's science and execution. It holds the model of one point, trains it one update
at a time, evaluates it, and writes and reads its state. It knows nothing of stores, attempts, wishes or
clocks: those are the job's. Losses are in nats a token everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, SupportsFloat

from sweepctl.spec.execution import Execution
from sweepctl.spec.learning_rate import LearningRateCurve
from sweepctl.spec.science import JobScience
from sweepctl.spec.sharding import Shard
from sweepctl.store.facts import Facts
from sweepctl.train.processes import SingleProcess

DeviceKind = Literal["cpu", "cuda", "rocm"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a trainer is made from."""

    science: JobScience
    """What to train: all that its numbers may depend on."""
    data: Path
    """The folder of the prepared corpus, whose content the science names by hash."""
    execution: Execution
    """How: device, micro-batch, threads. No number may depend on it by more than rounding."""
    before: Facts | None = None
    """Of the attempt that saved the checkpoint which is loaded next: what `execution` leaves open is as it
    was there, so that a branch is computed as its trunk was."""
    processes: SingleProcess = field(default_factory=SingleProcess)
    """This process's place among those that train the job."""


@dataclass(frozen=True, slots=True)
class Update:
    """What one update measured. A value may still be on its way from a device: nothing waits for it before
    somebody takes it as a float."""

    loss: SupportsFloat
    """The mean training loss of the update's batch, before the update, in nats a token."""
    grad_norm: SupportsFloat | None = None
    """The norm of the gradient before clipping, None where nothing is clipped."""
    further: Callable[[], Mapping[str, SupportsFloat]] = dict
    """Whatever else is worth a place in the metrics, by the name it has there; asked for only where a line is
    written."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a trainer runs on and how: recorded on the attempt, never part of the science."""

    device: str
    """The name of the device, as its maker spells it."""
    device_kind: DeviceKind
    """What torch, or its like, reaches it by."""
    micro_batch_rows: int | None = None
    """Sequences that one process sees at once, None where that has no meaning. After an attempt that ran out
    of memory the next is given half of them in `Execution.micro_batch_rows`."""
    processes: int = 1
    """How many processes train together, on a device each."""
    hosts: tuple[str, ...] = ()
    """Where they are, by rank."""
    shard: Shard = "none"
    """What the processes share out among them."""
    gemm: str | None = None
    """Which library multiplies matrices, None where there is no choice."""
    compiled: bool | None = None
    """Whether the model is compiled, None where that has no meaning."""
    cuda_graphs: bool | None = None
    """Whether a step's kernels are launched together, None where that has no meaning."""
    deterministic: bool | None = None
    """Whether only deterministic algorithms were asked for, None where that has no meaning."""
    loss_chunks: int | None = None
    """The pieces in which the loss is computed, None where that has no meaning."""
    counted_memory_bytes: int | None = None
    """What one process needs of its device's memory by the plan's count; None where nothing is counted."""
    peak_flops: float | None = None
    """The FLOP/s of one device that MFU is a share of; None where they are not known."""


class Trainer(ABC):
    """One point's model, trained one update at a time.

    Two trainers of equal science that are at the same step, one of them through `save` and `load`, have the
    same future, bit for bit on one device and layout. Batches follow from the science and the step alone.
    """

    step: int
    """Updates made since the initialization: 0 for a new trainer."""

    @classmethod
    @abstractmethod
    def make(cls, assignment: Assignment) -> Self:
        """A trainer at step 0, its weights drawn from the science's seed.

        Raises:
            RequestError: it cannot be done as asked: other data than the plan's, a device that is not there.
            DamagedFile: the data is not what was written.
        """

    @classmethod
    @abstractmethod
    def versions(cls) -> dict[str, str]:
        """The versions of the libraries that its numbers depend on, by name."""

    @property
    @abstractmethod
    def held_out(self) -> tuple[str, ...]:
        """The names of the sets that it can be evaluated on. The loss on the first counts, unless the study
        names another by `validation.loss_on`."""

    @property
    @abstractmethod
    def flops_per_token(self) -> int | None:
        """Training FLOPs a token of every matrix product, None where they are not known."""

    @abstractmethod
    def setup(self) -> Setup:
        """What it runs on and how."""

    def peak_memory_bytes(self) -> int | None:
        """The most that its tensors took of this process's device so far, None where that is not measured."""
        return None

    @abstractmethod
    def update(self, curve: LearningRateCurve) -> Update:
        """Train on batch `step` at the curve's multiplier of the peak learning rate there; then `step` is one
        more."""

    @abstractmethod
    def evaluate(self, name: str, tokens: int) -> float:
        """The mean loss in nats a token on a fixed sample of about `tokens` tokens of a held-out set, 0 for
        all of it; not finite where the model has diverged. It leaves no trace in the state."""

    @abstractmethod
    def bits_per_byte(self, name: str, loss: float) -> float | None:
        """A loss on a held-out set, in nats a token, as bits a byte of its text; None where its bytes are not
        counted."""

    @abstractmethod
    def save(self, folder: Path, weights_only: bool = False) -> None:
        """Write all that `load` needs into an empty folder, whose files are made durable and put in place by
        the caller; with `weights_only` what `evaluate` needs.

        Raises:
            OSError: the file system refused.
        """

    def hand_over(self) -> None:  # noqa: B027
        """Give rank 0, which saves, what this process alone keeps: nothing where all keep the same. Whoever
        shares its state out gives `Command.SAVE` for it."""

    @abstractmethod
    def load(self, folder: Path, step: int) -> None:
        """Take over the state that was saved in a folder at this step, and with it the place in the data.

        Raises:
            DamagedFile: a file is missing or not what was saved.
            RequestError: it is the state of another model.
        """

    @abstractmethod
    def share(self) -> None:
        """From here on every update and evaluation is done by all processes of the job together; all of their
        trainers are at the same step. Called once, before the first update, also where there is one process.
        """
