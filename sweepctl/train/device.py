"""Where a job runs: device, precision, matrix products, and what the device could do at its peak."""

from __future__ import annotations

import os
import platform
import socket
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweepctl.errors import MachineFailed, RequestError
from sweepctl.spec.execution import Execution
from sweepctl.spec.peaks import peak_flops
from sweepctl.store.facts import Facts
from sweepctl.store.protocol import GPU_VARIABLE
from sweepctl.train.compilation import can_compile
from sweepctl.train.interface import DeviceKind
from sweepctl.train.ops import Ops, eager_cpu, plain

CONTEXT_BYTES = 512 << 20
"""About what a process takes of a GPU before its first tensor: context, kernels, libraries' workspaces."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The device a job got, and the operations that suit it."""

    device: torch.device
    """Where torch puts tensors."""
    kind: DeviceKind
    """Its kind, as torch has it."""
    name: str
    """Its name, as its maker has it."""
    ops: Ops
    """The operations of a model."""
    gemm: str
    """Which library multiplies matrices."""
    precision: str
    """The science's."""
    peak_flops: float | None
    """Its dense bf16 FLOP/s, None where that is not known."""
    memory_bytes: int | None = None
    """What the process may take of a GPU's memory, None on a CPU."""
    compiled: bool = False
    """Whether models go through torch.compile there."""
    deterministic: bool = False
    """Whether torch was told to take deterministic algorithms."""

    @property
    def free_bytes(self) -> int | None:
        """What is left of a GPU's memory for a new model, None on a CPU."""
        if self.memory_bytes is None:
            return None
        cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return min(self.memory_bytes, torch.cuda.mem_get_info(self.device)[0] + cached)

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 autocast where the science asks for it."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


def machine(
    execution: Execution, precision: str, local_rank: int = 0, before: Facts | None = None
) -> Machine:
    """The machine for a job of this precision, for this one of the job's processes on this host; where it
    goes on from what another attempt computed, with that attempt's facts.

    Raises:
        RequestError: a GPU was asked for and torch can use none, or there is none.
        MachineFailed: whoever started this process has promised a GPU, and torch sees none.
    """
    deterministic = execution.deterministic or (before is not None and bool(before.deterministic))
    _take_deterministic(deterministic)
    if execution.device != "cpu" and not _has_gpu():
        _promised_gpu()
    if execution.device == "cuda" or (execution.device == "auto" and _has_gpu()):
        if not _has_gpu():
            raise RequestError("device=cuda, but torch sees no GPU here; use device=cpu or auto.")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic, and read once a process
        device = _gpu(local_rank)
        name = torch.cuda.get_device_name(device)
        kind: DeviceKind = "rocm" if torch.version.hip else "cuda"  # torch calls AMD's GPUs cuda too
        memory_bytes = _take_part(device, execution.per_gpu)
        return Machine(
            device,
            kind,
            name,
            plain(),
            "torch",
            precision,
            peak_flops(name),
            memory_bytes,
            _compiles(execution, kind, before),
            deterministic,
        )
    torch.set_num_threads(execution.threads)
    compiled = _compiles(execution, "cpu", before)
    gemm = _cpu_gemm(execution, precision, compiled)
    eager = precision == "fp32" and not compiled
    ops = eager_cpu(gemm) if eager else plain()
    return Machine(
        torch.device("cpu"), "cpu", cpu_name(), ops, gemm, precision, None, None, compiled, deterministic
    )


def _take_deterministic(wanted: bool) -> None:
    """Of this process, for every job anew. What has no deterministic algorithm runs all the same, and torch
    warns of it."""
    if torch.are_deterministic_algorithms_enabled() != wanted:
        torch.use_deterministic_algorithms(wanted, warn_only=True)
        from torch.utils import deterministic

        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads any
        torch.backends.cudnn.deterministic = wanted


def _compiles(execution: Execution, kind: DeviceKind, before: Facts | None) -> bool:
    """Whether models are compiled: as asked, else as they were, else where it pays and can be done."""
    if execution.compile != "auto":
        return execution.compile
    if before is not None and before.device_kind == kind and before.compiled is not None:
        return before.compiled
    return kind != "cpu" and can_compile()


def _has_gpu() -> bool:
    return bool(torch.cuda.is_available())


def _promised_gpu() -> None:
    """Refuse to train on a CPU in the place of a GPU that should be here."""
    promise = os.environ.get(GPU_VARIABLE)
    if promise is None:
        return
    if torch.version.cuda is None and torch.version.hip is None:
        if promise == "allocation":
            raise RequestError("GPUs were asked for, but torch is built without them; use device=cpu.")
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    raise MachineFailed(
        f"A GPU should be here (CUDA_VISIBLE_DEVICES: {visible}), but torch sees none on "
        f"{socket.gethostname()}; device=cpu trains without."
    )


def _gpu(local_rank: int) -> torch.device:
    """The process's own GPU; where it sees one only, whoever started it has chosen."""
    count = torch.cuda.device_count()
    index = local_rank if count > 1 else 0
    if index >= count:
        kind = RequestError if os.environ.get(GPU_VARIABLE) is None else MachineFailed
        raise kind(f"LOCAL_RANK is {local_rank}, but torch sees {count} GPUs here.")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _take_part(device: torch.device, per_gpu: int) -> int:
    """Keep this process to its part of a GPU's memory, in bytes, so that one that wants too much fails alone;
    the job before it may have had another."""
    total = int(torch.cuda.get_device_properties(device).total_memory)
    own = part_bytes(total, per_gpu)
    torch.cuda.set_per_process_memory_fraction(min(1.0, own / total), device)
    return own


def part_bytes(total_bytes: int, per_gpu: int) -> int:
    """What each of `per_gpu` processes on a GPU may allocate, beside what CUDA itself takes for each."""
    return total_bytes if per_gpu == 1 else max(1, total_bytes // per_gpu - CONTEXT_BYTES)


def _cpu_gemm(execution: Execution, precision: str, compiled: bool) -> str:
    if precision != "fp32" or compiled:
        return "torch"
    if execution.gemm != "auto":
        return execution.gemm
    mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    foreign = mkl and "AuthenticAMD" in _cpu_info()
    return "onednn" if foreign and "avx512f" in _cpu_info() else "torch"


def cpu_name() -> str:
    """The processor's model name, or its architecture."""
    for line in _cpu_info().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return ""
