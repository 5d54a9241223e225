"""A plan held against the store and the plan before it: what exists, what is new, what nobody wants."""

from __future__ import annotations

from dataclasses import dataclass

from sweepctl.plan.cost import Cost, total
from sweepctl.plan.diff import Diff, diff
from sweepctl.plan.plan import Job, Plan
from sweepctl.store import checkpoints
from sweepctl.store.state import outcome
from sweepctl.store.workspace import Sweep


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of one stage's plan. `begun` jobs have a checkpoint but not all they should; `left` costs the rest."""

    exists: int
    begun: int
    new: int
    left: Cost
    diff: Diff | None
    unwanted: tuple[str, ...]


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
    before = sweep.stage_hashes().get(plan.stage)
    changes = diff(sweep.plan(before), plan) if before not in (None, plan.hash) else None
    gone = changes.gone if changes else ()
    wanted = _wanted_now(sweep, plan) if gone else set()
    unwanted = tuple(i for i in gone if i not in wanted and sweep.workspace.job(i).path.exists())
    return Comparison(
        exists, len(reached), len(left) - len(reached), total(plan, left, reached), changes, unwanted
    )


def _wanted_now(sweep: Sweep, plan: Plan) -> set[str]:
    wanted = sweep.workspace.wanted_elsewhere(sweep.name) | set(plan.by_id)
    for stage, digest in sweep.stage_hashes().items():
        if stage != plan.stage:
            wanted |= set(sweep.plan(digest).by_id)
    return wanted
