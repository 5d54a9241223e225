"""What `clean` would delete."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from sweepctl.launch.clean import Unwanted
from sweepctl.report.console import size


def show_clean(out: Console, unwanted: Unwanted, sweep: str) -> None:
    """One line each, largest first, and the sum."""
    for job in unwanted.busy:
        out.print(
            f"  {job} is not wanted any more but is being trained; `sweepctl cancel {sweep}` stops what its "
            "launches train"
        )
    for note in unwanted.notes:
        out.print(f"  {note}")
    if unwanted.empty:
        out.print("Nothing to delete.")
        return
    for job, (_, bytes_) in sorted(unwanted.jobs.items(), key=lambda item: -item[1][1]):
        out.print(f"  job {job}  {size(bytes_)}")
    for checkpoint, bytes_ in unwanted.checkpoints:
        out.print(f"  checkpoint {checkpoint.job} step {checkpoint.step}  {size(bytes_)}")
    for path, bytes_ in unwanted.debris:
        out.print(f"  damaged or half-written {path}  {size(bytes_)}")
    out.print(f"{size(unwanted.bytes)} in all.")


def clean_json(unwanted: Unwanted, deleted: bool) -> dict[str, Any]:
    """The same facts."""
    return {
        "jobs": {job: bytes_ for job, (_, bytes_) in unwanted.jobs.items()},
        "checkpoints": [{"job": c.job, "step": c.step, "bytes": b} for c, b in unwanted.checkpoints],
        "debris": [{"path": str(path), "bytes": bytes_} for path, bytes_ in unwanted.debris],
        "busy": unwanted.busy,
        "notes": unwanted.notes,
        "bytes": unwanted.bytes,
        "deleted": deleted,
    }
