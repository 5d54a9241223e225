"""A GPU that is broken or not there is a machine's fault, never a silent CPU."""

from __future__ import annotations

import pytest
import torch

from sweepctl.errors import MachineFailed, RequestError
from sweepctl.spec.execution import Execution
from sweepctl.store.protocol import GPU_VARIABLE
from sweepctl.train import device
from sweepctl.train.processes import device_failed, out_of_memory


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be ...",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        "No CUDA GPUs are available",
        "CUDA driver initialization failed, you might not have a CUDA gpu.",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error",
        "HIP error: unspecified launch failure",
    ],
)
def test_what_a_device_says_when_it_fails(text: str) -> None:
    assert device_failed(RuntimeError(text)) and not out_of_memory(RuntimeError(text))
    assert not device_failed(ValueError(text))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: no kernel image is available for execution on the device",
        "CUDA error: invalid argument",
        "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    ],
)
def test_what_is_asked_wrongly_fails_everywhere(text: str) -> None:
    assert not device_failed(RuntimeError(text))


@pytest.fixture
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv(GPU_VARIABLE, raising=False)
    return monkeypatch


def test_a_gpu_that_was_promised_and_is_not_seen_is_the_machines_fault(
    without_gpus: pytest.MonkeyPatch,
) -> None:
    without_gpus.setattr(torch.version, "cuda", "12.8")
    assert device.machine(Execution(), "fp32").kind == "cpu"
    for promise in ("allocation", "machine"):
        without_gpus.setenv(GPU_VARIABLE, promise)
        assert device.machine(Execution(device="cpu"), "fp32").kind == "cpu"
        for asked in ("auto", "cuda"):
            with pytest.raises(MachineFailed, match="torch sees none"):
                device.machine(Execution(device=asked), "fp32")  # type: ignore[arg-type]


def test_gpus_of_an_allocation_need_a_torch_that_can_use_them(without_gpus: pytest.MonkeyPatch) -> None:
    """On one's own machine such a torch is somebody's choice."""
    without_gpus.setattr(torch.version, "cuda", None)
    without_gpus.setattr(torch.version, "hip", None)
    without_gpus.setenv(GPU_VARIABLE, "machine")
    assert device.machine(Execution(), "fp32").kind == "cpu"
    without_gpus.setenv(GPU_VARIABLE, "allocation")
    with pytest.raises(RequestError, match="built without"):
        device.machine(Execution(), "fp32")


def test_processes_on_a_gpu_have_equal_parts_of_its_memory_beside_what_cuda_takes() -> None:
    assert device.part_bytes(80 << 30, 1) == 80 << 30
    assert 8 * (device.part_bytes(80 << 30, 8) + device.CONTEXT_BYTES) == 80 << 30
    assert device.part_bytes(1 << 30, 8) > 0
