"""What a launch checks before it starts anything."""

from __future__ import annotations

from sweepctl.data.shards import check_context, read_index, verify
from sweepctl.errors import DamagedFile, RequestError, unknown_name
from sweepctl.plan.plan import Plan
from sweepctl.store import checkpoints
from sweepctl.store.predictions import probed_elsewhere, unpredicted
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.store.workspace import Sweep


def launchable(sweep: Sweep, only: str | None = None) -> tuple[SweepJobs, list[str]]:
    """The jobs of the stages that may be trained now, and the names of those held back until their
    prediction is written.

    Raises:
        RequestError: there is no such stage, its data is missing or other data, or a checkpoint that a job
            would start from belongs to another run.
    """
    plans = sweep.plans()
    if only is not None:
        if only in sweep.waiting_stages():
            raise RequestError(
                f"Stage {only} waits for results of another stage; `sweepctl plan` again plans it then."
            )
        if only not in plans:
            raise unknown_name("planned stage", only, plans)
        plans = {only: plans[only]}
    held = [stage for stage, plan in plans.items() if plan.predict_first and unpredicted(sweep, plan)[0]]
    sweep_jobs = SweepJobs(sweep, {stage: plan for stage, plan in plans.items() if stage not in held})
    for stage in held:  # a job that a free stage wants too is held back all the same, unless it probes
        of_stage = {job.id for job in plans[stage].observations()}
        sweep_jobs.leave_out(of_stage - probed_elsewhere(plans[stage], sweep_jobs.plans.values()))
    for plan in sweep_jobs.plans.values():
        _check_data(sweep, plan)
    sources = {planned_job.folder for planned_job in sweep_jobs.unfinished()}
    sources |= {planned_job.trunk for planned_job in sweep_jobs.unfinished() if planned_job.trunk is not None}
    for folder in sources:
        for step in checkpoints.steps(folder):
            checkpoints.at(folder, step).check_owner()
    return sweep_jobs, held


def _check_data(sweep: Sweep, plan: Plan) -> None:
    folder = sweep.workspace.corpus(plan.corpus_name)
    index = read_index(folder)
    corpus = index.hash
    if corpus != plan.base.corpus.hash:
        raise RequestError(
            f"{folder} holds data {corpus[:12]}, the plan of {sweep.name} was made on "
            f"{plan.base.corpus.hash[:12]}; run `sweepctl plan` again or restore the data."
        )
    check_context(folder, index, plan.base.batch.context)
    try:
        verify(folder, index)
    except DamagedFile as error:
        raise RequestError(f"{error} Restore it, or prepare the data again.") from None
