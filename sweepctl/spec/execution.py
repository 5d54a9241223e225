"""How jobs are run: none of it is science, all of it is recorded on every attempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweepctl.errors import InvalidValue
from sweepctl.spec.sharding import ShardChoice


@dataclass(frozen=True, slots=True)
class Execution:
    """What a trainer may choose without changing what is trained."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one."""
    threads: int = 1
    """Of a worker on the CPU."""
    compile: bool | Literal["auto"] = "auto"
    """Whether the model goes through torch.compile. auto: as the attempt whose checkpoint is gone on from had
    it on the same kind of device; else on a GPU, where Triton and a C compiler are there."""
    cuda_graphs: bool | Literal["auto"] = "auto"
    """Whether the kernels of a compiled step are launched together, as CUDA graphs, where one process takes a
    whole batch at once; auto: where the model is small."""
    deterministic: bool = False
    """Whether torch is to take deterministic algorithms where it has any. What goes on from a deterministic
    attempt is deterministic too."""
    gemm: Literal["auto", "torch", "onednn"] = "auto"
    """Which library multiplies large matrices on a CPU."""
    micro_batch_rows: int | Literal["auto"] | None = None
    """Sequences that are trained at once; null for the whole batch. auto: as the attempt whose checkpoint is
    gone on from had it on as many devices of the same kind; else on a GPU the most that it has room for."""
    checkpoint_activations: bool = False
    """Whether the backward pass has of every block its input only and computes the rest of it anew: less
    memory, a third more FLOPs."""
    per_gpu: int = 1
    """Jobs that share a GPU, each in a process of its own with its part of the memory."""
    shard: ShardChoice = "auto"
    """What each process of a job keeps its own part of. Of gradients only where every piece of a batch is
    reduced."""
    checkpoint_every_s: float = 60.0
    """Time between rolling checkpoints."""
    log_every_steps: int = 10
    """Steps between lines of metrics."""
    keep: Literal["none", "last", "all"] = "all"
    """Which checkpoints stay once a job is done."""
    curve_tokens: int = 0
    """Held-out tokens of a point on the curve: of the plan's validation, no launcher's."""
    curve_per_octave: int = 0
    """Points of the curve a doubling of tokens: as the plan's validation has it too; 0 is no curve."""

    def __post_init__(self) -> None:
        for key in ("threads", "per_gpu", "log_every_steps"):
            if getattr(self, key) < 1:
                raise InvalidValue(key, getattr(self, key), "at least 1")
        if isinstance(self.micro_batch_rows, int) and self.micro_batch_rows < 1:
            raise InvalidValue("micro_batch_rows", self.micro_batch_rows, "at least 1, auto, or null")
        if self.checkpoint_every_s <= 0:
            raise InvalidValue("checkpoint_every_s", self.checkpoint_every_s, "above 0")
