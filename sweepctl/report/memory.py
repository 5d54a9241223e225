"""Rungs that do not fit a GPU, as lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console

from sweepctl.launch.gpu_memory import remedy, shortage
from sweepctl.plan.memory import RungMemory
from sweepctl.report.console import END, YELLOW


def show_memory(out: Console, by_stage: Mapping[str, list[RungMemory]]) -> None:
    """A line for each that does not fit."""
    for stage, memories in by_stage.items():
        for memory in memories:
            if not memory.fits:
                out.print(f"{YELLOW}Stage {stage}: {shortage(memory)}.{END} {remedy(memory)}", soft_wrap=True)


def memory_json(by_stage: Mapping[str, list[RungMemory]]) -> dict[str, Any]:
    """The same of every rung."""
    return {
        stage: [
            {
                "rung": memory.rung,
                "fits": memory.fits,
                "gpu_bytes": memory.gpu_bytes,
                "needs_gpu_bytes": memory.needs.device_bytes,
                "bytes": asdict(memory.needs),
                "layout": asdict(memory.layout),
                "remedies": list(memory.remedies),
            }
            for memory in memories
        ]
        for stage, memories in by_stage.items()
    }
