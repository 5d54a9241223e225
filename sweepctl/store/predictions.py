"""Predictions as they were written down: one file each, never changed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sweepctl.plan.plan import Plan
from sweepctl.spec.hashing import canonical, digest
from sweepctl.store import attempts
from sweepctl.store.files import read_json, storage, write_json
from sweepctl.store.workspace import Sweep


def folder(sweep: Sweep) -> Path:
    return sweep.folder / "predictions"


def attempted(sweep: Sweep, plan: Plan) -> list[str]:
    """Jobs of a plan that have an attempt: a prediction made now would not be one beforehand."""
    return [job.id for job in plan.jobs if attempts.newest(sweep.workspace.job(job.id)) is not None]


def of_plan(sweep: Sweep, plan: Plan) -> list[dict[str, Any]]:
    """The predictions made of a plan, oldest first."""
    if not folder(sweep).is_dir():
        return []
    found = [read_json(path) for path in folder(sweep).glob("*.json")]
    return sorted((p for p in found if p.get("plan") == plan.hash), key=lambda p: str(p["written"]))


def has_prior(sweep: Sweep, plan: Plan) -> bool:
    """Whether a prediction was written before any of the plan's jobs began."""
    return any(prediction["prior"] for prediction in of_plan(sweep, plan))


def write(sweep: Sweep, prediction: dict[str, Any]) -> Path:
    """Write a prediction down, with the time; its file."""
    prediction = {**prediction, "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    path = folder(sweep) / f"{digest(canonical(prediction))}.json"
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, prediction)
    return path
