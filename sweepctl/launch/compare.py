"""A plan held against the store and the plan before it: what exists, what is new, what nobody wants."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from sweepctl.errors import DamagedFile, RequestError
from sweepctl.plan.cost import Cost, sum_costs, total
from sweepctl.plan.diff import Diff, diff
from sweepctl.plan.plan import Job, Plan
from sweepctl.store.state import JobFiles
from sweepctl.store.workspace import Sweep, Workspace


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
    left_by_rung: dict[str, Cost]
    """The same rung by rung."""
    diff: Diff | None
    """What changed since the plan before; None where there is none, or none that can be read."""
    unwanted: tuple[str, ...]
    """Jobs of older plans that are in the store and that no current plan wants."""


@dataclass(frozen=True, slots=True)
class LeftToTrain:
    """What an attempt at a job would train."""

    first: int
    """The step that it goes on from."""
    end: int
    """The last step."""
    begun: bool
    """Whether the job has a checkpoint of its own."""


def compare_all(sweep: Sweep, plans: Mapping[str, Plan]) -> dict[str, Comparison]:
    """Stage -> its plan against the store. What several stages want is left for the first of them."""
    counted: dict[str, int] = {}
    return {stage: compare(sweep, plan, counted) for stage, plan in plans.items()}


def compare(sweep: Sweep, plan: Plan, counted: dict[str, int] | None = None) -> Comparison:
    """What is left to do, and what the sweep's older plans wanted that no current plan wants any more.
    `counted` has the steps up to which jobs are left to train for other stages; this one's are added."""
    counted = {} if counted is None else counted
    left = left_to_train(sweep.workspace, plan)
    jobs: list[Job] = []
    first_steps: dict[str, int] = {}
    shared = 0
    for job in plan.jobs:
        if job.id in left and counted.get(job.id, -1) < left[job.id].end:
            jobs.append(dataclasses.replace(job, end=left[job.id].end))
            first_steps[job.id] = max(left[job.id].first, counted.get(job.id, 0))
            shared += job.id in counted
            counted[job.id] = left[job.id].end
    by_rung: dict[str, list[Job]] = {}
    for job in jobs:
        by_rung.setdefault(plan.rung_of(job).name, []).append(job)
    left_by_rung = {rung: total(plan, of_rung, first_steps) for rung, of_rung in by_rung.items()}
    cost = sum_costs(left_by_rung.values())
    cost = dataclasses.replace(cost, jobs=cost.jobs - shared)
    before = sweep.last_hashes().get(plan.stage)
    changes = None
    with contextlib.suppress(RequestError, DamagedFile):  # a plan that is gone cannot be compared with
        changes = diff(sweep.plan(before), plan) if before not in (None, plan.hash) else None
    unwanted: tuple[str, ...] = ()
    with contextlib.suppress(DamagedFile):  # nothing is called unwanted on doubt
        unwanted = _unwanted(sweep, plan, changes.gone if changes else ())
    begun = sum(job.begun for job in left.values())
    return Comparison(
        len(plan.jobs) - len(left), begun, len(left) - begun, cost, left_by_rung, changes, unwanted
    )


def left_to_train(workspace: Workspace, plan: Plan) -> dict[str, LeftToTrain]:
    """The plan's jobs that are not done, each from the checkpoint that an attempt would go on from to where
    it would end: a trunk at the last cut that a branch still needs."""
    left: dict[str, LeftToTrain] = {}
    trunks: dict[str, JobFiles | None] = {}
    ends: dict[str, int] = {}

    def files_of(job: str) -> JobFiles | None:
        return JobFiles(workspace.job(job)) if workspace.has_job(job) else None

    for job in plan.observations():
        files, trunk, cut = files_of(job.id), None, job.cut or 0
        if job.trunk is not None:
            if job.trunk not in trunks:
                trunks[job.trunk] = files_of(job.trunk)
            trunk = trunks[job.trunk]
        if (files or trunk) and (files or JobFiles(workspace.job(job.id))).outcome(trunk, cut) is not None:
            continue
        own = [step for step in files.saved if step < job.end] if files else []  # its end is weights alone
        reached = job.trunk is None or cut == 0 or (trunk is not None and trunk.reaches(cut))
        first = cut
        if own or job.trunk is None:
            first = max(own, default=0)
        elif trunk is not None and reached:
            first = trunk.start_of(cut)
        left[job.id] = LeftToTrain(first, job.end, bool(own))
        if job.trunk is not None and not reached:
            ends[job.trunk] = max(cut, ends.get(job.trunk, 0))
    for job_id, end in ends.items():
        files = trunks[job_id]
        saved = files.saved if files is not None else []
        left[job_id] = LeftToTrain(max(saved, default=0), end, bool(saved))
    return left


def _unwanted(sweep: Sweep, plan: Plan, gone: tuple[str, ...]) -> tuple[str, ...]:
    gone = tuple(job for job in gone if sweep.workspace.has_job(job))
    if not gone:
        return ()
    wanted = sweep.workspace.wanted_elsewhere(sweep.name).jobs | set(plan.by_id)
    for stage, digest in sweep.last_hashes().items():
        if stage != plan.stage:
            wanted |= set(sweep.plan(digest).by_id)
    return tuple(job for job in gone if job not in wanted)
