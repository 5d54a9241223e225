"""A plan held against the store and the plan before it: what exists, what is new, what nobody wants."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from sweepctl.errors import DamagedFile, RequestError
from sweepctl.plan.cost import Cost, total
from sweepctl.plan.diff import Diff, diff
from sweepctl.plan.plan import Job, Plan
from sweepctl.store import checkpoints
from sweepctl.store.state import outcome
from sweepctl.store.workspace import Sweep


@dataclass(frozen=True, slots=True)
class Comparison:
    """One stage's plan against the store."""

    exists: int
    """Jobs that are done."""
    begun: int
    """Jobs that have a checkpoint, but not all they should."""
    new: int
    """Jobs that have none."""
    left: Cost
    """What is left costs this."""
    diff: Diff | None
    """What changed since the plan before; None where there is none, or none that can be read."""
    unwanted: tuple[str, ...]
    """Jobs of older plans that are in the store and that no current plan wants."""


def compare(sweep: Sweep, plan: Plan) -> Comparison:
    """What is left to do, and what the sweep's older plans wanted that no current plan wants any more."""
    exists = 0
    left: list[Job] = []
    reached: dict[str, int] = {}
    for job in plan.jobs:
        if not (sweep.workspace.has_job(job.id) or (job.trunk and sweep.workspace.has_job(job.trunk))):
            left.append(job)
            continue
        folder = sweep.workspace.job(job.id)
        saved = checkpoints.steps(folder)
        done = job.kind == "trunk" and saved and saved[-1] >= job.end
        if done or outcome(folder, folder.sibling(job.trunk) if job.trunk else None, job.cut) is not None:
            exists += 1
            continue
        left.append(job)
        if saved:
            reached[job.id] = saved[-1]
    before = sweep.last_hashes().get(plan.stage)
    changes = None
    with contextlib.suppress(RequestError, DamagedFile):  # a plan that is gone cannot be compared with
        changes = diff(sweep.plan(before), plan) if before not in (None, plan.hash) else None
    unwanted: tuple[str, ...] = ()
    with contextlib.suppress(DamagedFile):  # nothing is called unwanted on doubt
        unwanted = _unwanted(sweep, plan, changes.gone if changes else ())
    return Comparison(
        exists, len(reached), len(left) - len(reached), total(plan, left, reached), changes, unwanted
    )


def _unwanted(sweep: Sweep, plan: Plan, gone: tuple[str, ...]) -> tuple[str, ...]:
    gone = tuple(job for job in gone if sweep.workspace.has_job(job))
    if not gone:
        return ()
    wanted = sweep.workspace.wanted_elsewhere(sweep.name) | set(plan.by_id)
    for stage, digest in sweep.last_hashes().items():
        if stage != plan.stage:
            wanted |= set(sweep.plan(digest).by_id)
    return tuple(job for job in gone if job not in wanted)
