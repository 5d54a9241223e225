"""A plan held against the store and the plan before it: what exists, what is new, what nobody wants."""

from __future__ import annotations

from dataclasses import dataclass

from sweepctl.plan.cost import Cost, total
from sweepctl.plan.diff import Diff, diff
from sweepctl.plan.plan import Plan
from sweepctl.store import checkpoints
from sweepctl.store.workspace import Sweep


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of one stage's plan. `begun` jobs have a checkpoint but not all they should."""

    exists: int
    begun: int
    new: int
    left: Cost
    diff: Diff | None
    unwanted: tuple[str, ...]


def compare(sweep: Sweep, plan: Plan) -> Comparison:
    """What is left to do, and what the sweep's older plans wanted that no current plan wants any more."""
    exists = begun = 0
    left = []
    for job in plan.jobs:
        folder = sweep.workspace.job(job.id)
        if not folder.path.exists():
            left.append(job)
            continue
        if folder.has_result():
            exists += 1
            continue
        saved = checkpoints.steps(folder)
        if job.kind == "trunk" and saved and saved[-1] >= job.end:
            exists += 1
            continue
        begun += bool(saved)
        left.append(job)
    before = sweep.stage_hashes().get(plan.stage)
    changes = diff(sweep.plan(before), plan) if before not in (None, plan.hash) else None
    gone = changes.gone if changes else ()
    wanted = _wanted_now(sweep, plan) if gone else set()
    unwanted = tuple(i for i in gone if i not in wanted and sweep.workspace.job(i).path.exists())
    return Comparison(exists, begun, len(plan.jobs) - exists - begun, total(plan, left), changes, unwanted)


def _wanted_now(sweep: Sweep, plan: Plan) -> set[str]:
    wanted = sweep.workspace.wanted_elsewhere(sweep.name) | set(plan.by_id)
    for stage, digest in sweep.stage_hashes().items():
        if stage != plan.stage:
            wanted |= set(sweep.plan(digest).by_id)
    return wanted
