"""A sweep's status as a screen and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from sweepctl.launch.status import ORDER, SweepStatus
from sweepctl.report.console import duration, flops, table


def show_status(out: Console, name: str, found: SweepStatus) -> None:
    """One line a rung, then what runs and what is wrong."""
    present = [state for state in ORDER if any(row.states[state] for row in found.rungs)]
    rows = [
        [
            row.stage,
            row.rung,
            *(str(row.states[state] or "") for state in present),
            f"{row.flops_done / row.flops:.0%}" if row.flops else "",
            flops(row.flops - row.flops_done) if row.flops > row.flops_done else "",
        ]
        for row in found.rungs
    ]
    out.print(table(f"sweep {name}", ["stage", "rung", *present, "trained", "FLOPs left"], rows, left=2))
    for entry, state in found.in_state("running"):
        out.print(f"  running  {entry.job.id}  {entry.name}: step {state.step} of {entry.job.end}")
    for entry, state in found.in_state("failed"):
        out.print(f"  [red]failed[/]   {entry.job.id}  {entry.name}: {_last_line(state.note)}")
    for entry, state in found.in_state("diverged"):
        out.print(f"  [yellow]diverged[/] {entry.job.id}  {entry.name}: {state.note}")
    spent = f"{duration(found.device_s)} of training so far. " if found.device_s else ""
    if found.complete:
        out.print(f"{spent}Everything the plans want is there.")
    else:
        out.print(f"{spent}`sweepctl launch {name}` trains what is missing.")


def status_json(name: str, found: SweepStatus) -> dict[str, Any]:
    """The same facts, and every job."""
    return {
        "sweep": name,
        "complete": found.complete,
        "train_s": found.device_s,
        "rungs": [
            {
                "stage": row.stage,
                "rung": row.rung,
                "states": dict(row.states),
                "flops": row.flops,
                "flops_done": row.flops_done,
            }
            for row in found.rungs
        ],
        "jobs": [
            {
                "id": entry.job.id,
                "kind": entry.job.kind,
                "stage": entry.plan.stage,
                "rung": entry.plan.rung_of(entry.job).name,
                "state": state.state,
                "step": state.step,
                "end_step": entry.job.end,
                "attempts": state.attempts,
                "note": state.note or None,
            }
            for entry, state in found.jobs
        ],
    }


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason recorded"
