"""Where a job runs: device, precision, matrix products, and what the device could do at its peak."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweepctl.errors import RequestError
from sweepctl.spec.execution import Execution
from sweepctl.train.ops import Ops, eager_cpu, plain

PEAK_FLOPS_BF16 = {
    "H100 PCIe": 756e12,
    "H100": 989.4e12,
    "H200": 989.4e12,
    "A100": 312e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165.2e12,
}
"""Dense bf16 FLOP/s by name, from the vendor's data sheets; no entry, no MFU."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The device a job got, and the operations that suit it."""

    device: torch.device
    name: str
    ops: Ops
    gemm: str
    precision: str
    peak_flops: float | None

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 autocast where the science asks for it."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


def machine(execution: Execution, precision: str, local_rank: int = 0) -> Machine:
    """The machine for a job of this precision, for this one of the job's processes on this host.

    Raises:
        RequestError: a GPU was asked for and there is none.
    """
    wanted: str = execution.device
    if wanted == "auto":
        wanted = "cuda" if _has_gpu() else "cpu"
    if wanted == "cuda":
        if not _has_gpu():
            raise RequestError("device=cuda, but torch sees no GPU here; use device=cpu or auto.")
        device = _gpu(local_rank)
        name = torch.cuda.get_device_name(device)
        return Machine(device, name, plain(), "torch", precision, peak_flops(name))
    torch.set_num_threads(execution.threads)
    gemm = _cpu_gemm(execution, precision)
    eager = precision == "fp32" and not execution.compile
    ops = eager_cpu(gemm) if eager else plain()
    return Machine(torch.device("cpu"), cpu_name(), ops, gemm, precision, None)


def _has_gpu() -> bool:
    return bool(torch.cuda.is_available())


def _gpu(local_rank: int) -> torch.device:
    """The process's own GPU; where it sees one only, whoever started it has chosen."""
    count = torch.cuda.device_count()
    index = local_rank if count > 1 else 0
    if index >= count:
        raise RequestError(f"LOCAL_RANK is {local_rank}, but torch sees {count} GPUs here.")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def peak_flops(name: str) -> float | None:
    """Dense bf16 peak of a GPU by its name, None for one that is not in the table."""
    for known, peak in PEAK_FLOPS_BF16.items():
        if known in name:
            return peak
    return None


def _cpu_gemm(execution: Execution, precision: str) -> str:
    if precision != "fp32" or execution.compile:
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
