"""Stop a sweep's jobs without touching what another sweep wants."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sweepctl.errors import WorkFailed, unknown_name
from sweepctl.launch.launcher import SchedulerError, launchers_of
from sweepctl.launch.logs import find_job
from sweepctl.launch.status import ORDER, full_status, still_trained
from sweepctl.store import checkpoints
from sweepctl.store.state import State
from sweepctl.store.sweep_jobs import SweepJobs, of_older_plans


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancel comes to, as job ids."""

    cancelled: list[str]
    """Jobs that are to stop, also of older plans."""
    spared: list[str]
    """Jobs that go on for another sweep."""
    left_alone: dict[str, str] = field(default_factory=dict)
    """Waiting tasks of theirs that could not be taken back, and why."""
    older: SweepJobs | None = None
    """Jobs that only older plans wanted: whatever still waits for one goes with it. None where single jobs
    are chosen."""


def choose(
    sweep_jobs: SweepJobs, jobs: list[str] | None = None, states: list[str] | None = None
) -> Cancelled:
    """The sweep's unfinished jobs, and those of its older plans that are still trained; with `jobs` only
    these, with `states` only those that are in one of them. A trunk takes its branches with it.

    Raises:
        RequestError: a job is not one of the sweep's, or a word is no state.
    """
    older = of_older_plans(sweep_jobs.sweep)
    trained = {planned_job.job.id for planned_job in still_trained(older)}
    only: set[str] | None = None
    if jobs:
        only = {job if job in trained else find_job(sweep_jobs, job).job.id for job in jobs}
    if states:
        for state in states:
            if state not in ORDER:
                raise unknown_name("state", state, ORDER)
        in_state = {planned_job.job.id for planned_job, _ in full_status(sweep_jobs).in_state(*states)}
        in_state |= trained if State.RUNNING in states else set()
        only = in_state if only is None else only & in_state
    elsewhere = sweep_jobs.sweep.workspace.wanted_elsewhere(sweep_jobs.sweep.name).jobs
    chosen = [
        e.job.id for e in sweep_jobs.unfinished() if only is None or e.job.id in only or e.job.trunk in only
    ]
    stopped = [j for j in chosen if j not in elsewhere]
    stopped += sorted(trained if only is None else trained & only)
    spared = [j for j in chosen if j in elsewhere]
    return Cancelled(stopped, spared, older=older if only is None else None)


def cancel(sweep_jobs: SweepJobs, choice: Cancelled | None = None) -> Cancelled:
    """Withdraw the sweep's wishes for these jobs, mark them as cancelled, and take back the tasks that wait
    for them; whoever trains one for this sweep saves its state and stops. A trunk that was on its way to what
    an older plan wanted stops as well.

    Raises:
        WorkFailed: a scheduler does not answer; what is done and what is not.
    """
    choice = choice or choose(sweep_jobs)
    sweep_jobs.sweep.mark_cancelled(choice.cancelled)
    cancelled = set(choice.cancelled)
    _withdraw(sweep_jobs, cancelled)
    if choice.older is not None:
        _withdraw(choice.older, set(choice.older.by_id))
        cancelled |= choice.older.by_id.keys()
    left_alone: dict[str, str] = {}
    for launcher in launchers_of(sweep_jobs.sweep):
        try:
            left_alone |= launcher.cancel(sweep_jobs.sweep, cancelled)
        except SchedulerError as error:
            raise WorkFailed(
                f"{len(choice.cancelled)} jobs are marked as cancelled: who trains one saves and stops, and "
                f"no task begins one. What waits in the queue could not be taken back: cancel again. {error}"
            ) from None
    return replace(choice, left_alone=left_alone)


def _withdraw(sweep_jobs: SweepJobs, cancelled: set[str]) -> None:
    """Wishes for what is saved stay: they keep the checkpoints."""
    for trunk_id, branches in sweep_jobs.branches.items():
        withdrawn = {planned_job.job.id for planned_job in branches} & cancelled
        if withdrawn:
            trunk = sweep_jobs.sweep.workspace.job(trunk_id)
            trunk.withdraw(sweep_jobs.sweep.name, withdrawn, checkpoints.steps(trunk))
