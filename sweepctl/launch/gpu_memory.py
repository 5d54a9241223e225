"""Rungs held against the memory that a launcher's settings say its GPUs have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sweepctl.errors import SweepctlError
from sweepctl.launch.doctor import Finding
from sweepctl.launch.launcher import Launcher
from sweepctl.plan.memory import RungMemory, rung_memories
from sweepctl.plan.plan import Plan
from sweepctl.spec.peaks import check_gpu_memory
from sweepctl.store.workspace import Workspace


def memory_by_stage(launcher: Launcher[Any], plans: Mapping[str, Plan]) -> dict[str, list[RungMemory]]:
    """Stage -> what its rungs need; nothing where it is not known what GPUs have."""
    gpu_bytes = check_gpu_memory(launcher.settings.gpu_memory)
    if gpu_bytes is None:
        return {}
    return {
        stage: rung_memories(
            plan, launcher.execution_of, launcher.devices_of, gpu_bytes, launcher.most_devices()
        )
        for stage, plan in plans.items()
    }


def memory_findings(launcher: Launcher[Any], workspace: Workspace) -> Iterator[Finding]:
    """What the plans of the workspace need, where it is known what GPUs have: each rung that does not fit, or
    that all do. Plans that cannot be read are left out."""
    if check_gpu_memory(launcher.settings.gpu_memory) is None:
        return
    rungs, too_large = 0, 0
    for name in workspace.sweep_names():
        try:
            by_stage = memory_by_stage(launcher, workspace.sweep(name).plans())
        except SweepctlError:
            continue
        memories = [memory for of_stage in by_stage.values() for memory in of_stage]
        every = {memory.rung: memory for memory in sorted(memories, key=lambda m: m.needs.device_bytes)}
        rungs += len(every)
        for memory in every.values():
            if not memory.fits:
                too_large += 1
                yield Finding("memory", "warning", f"sweep {name}: {shortage(memory)}", remedy(memory))
    if rungs and not too_large:
        yield Finding("memory", "ok", f"all {rungs} rungs of the plans here fit a GPU")


def shortage(memory: RungMemory) -> str:
    """What a rung needs and does not get."""
    needs, layout = memory.needs, memory.layout
    parts = {
        "weights and gradients": needs.weights + needs.gradients,
        "moments": needs.moments,
        "activations": needs.copies + needs.activations,
        "logits": needs.logits,
    }
    shown = ", ".join(f"{what} {_gb(number)}" for what, number in parts.items())
    return (
        f"rung {memory.rung} needs {_gb(needs.device_bytes)} GB of a GPU, and there are "
        f"{_gb(memory.gpu_bytes)} GB ({shown}; {layout.rows} rows at once)"
    )


def remedy(memory: RungMemory) -> str:
    """What would make it fit."""
    if not memory.remedies:
        return "No micro-batch, checkpointing of activations or sharing out makes it fit."
    return f"It fits with {', or with '.join(memory.remedies)}."


def _gb(number: int) -> str:
    return f"{number / 1e9:.3g}"
