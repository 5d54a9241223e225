"""`--on slurm`: arrays of tasks on a Slurm cluster. Nothing has to stay open where they were submitted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sweepctl.errors import RequestError
from sweepctl.launch.doctor import Finding, Say
from sweepctl.launch.launcher import Launcher, LaunchRequest
from sweepctl.launch.local import Watcher
from sweepctl.launch.outcome import Submitted, ToSubmit
from sweepctl.launch.slurm import commands, task_ends
from sweepctl.launch.slurm.queue_state import late_tasks, read_queue
from sweepctl.launch.slurm.records import Records, SlurmOrder, user_name
from sweepctl.launch.slurm.settings import SlurmSettings
from sweepctl.launch.slurm.shell import read_shell
from sweepctl.launch.tasks import Task
from sweepctl.launch.variables import handed_on
from sweepctl.spec.execution import Execution
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.store.workspace import Sweep, Workspace

MOST_DEVICES = 64
"""Up to how many GPUs of a job are thought of where one is too small."""


class SlurmLauncher(Launcher[SlurmSettings], kind="slurm", settings=SlurmSettings):
    """What submits is imported where it is used: looking at a sweep must be quick."""

    def __init__(self, settings: SlurmSettings) -> None:
        self.shell = read_shell(settings, os.environ)
        super().__init__(self.shell.settings)

    def execution_of(self, rung: str) -> Execution:
        return self.settings.of_rung(rung).execution

    def devices_of(self, rung: str) -> int:
        return self.settings.resources_of(rung).processes

    def most_devices(self) -> int:
        return MOST_DEVICES

    def launch(self, request: LaunchRequest, watcher: Watcher) -> Submitted:
        from sweepctl.launch.slurm.dispatch import dispatch

        order = self._order(request)
        for rung in request.sweep_jobs.rungs:
            handed_on(self.settings.of_rung(rung).environment)  # or say what is not set
        request.begin()
        request.sweep_jobs.make_wishes(self.execution.keep)
        records = Records(request.sweep_jobs.sweep)
        records.write_order(order)
        records.forgive(request.retry.forgiven)
        return dispatch(records, order, request.sweep_jobs, settings=self.settings)

    def rehearse(self, request: LaunchRequest) -> ToSubmit:
        from sweepctl.launch.slurm.dispatch import rehearse

        records = Records(request.sweep_jobs.sweep)
        return rehearse(records, self._order(request), request.sweep_jobs, self.settings)

    def _order(self, request: LaunchRequest) -> SlurmOrder:
        """The sweep's plans and these settings, frozen.

        Raises:
            RequestError: Slurm would not write logs into this workspace.
        """
        folder = request.sweep_jobs.sweep.folder
        if "%" in str(folder) or "\\" in str(folder):
            pattern = "a character of Slurm's file patterns (% or \\)"
            raise RequestError(f"{folder} holds {pattern}; move the workspace.")
        return SlurmOrder.of(request, self.settings)

    def examine(self, workspace: Workspace, say: Say, job: bool, wait_min: float) -> Iterator[Finding]:
        from sweepctl.launch.slurm.doctor import examine_slurm

        yield from examine_slurm(workspace, self.shell, say, job, wait_min)

    @classmethod
    def tasks(cls, sweep: Sweep) -> Mapping[str, list[Task]]:
        return read_queue(Records(sweep))

    @classmethod
    def ended_as(cls, tasks: Iterable[str]) -> Mapping[str, str]:
        return commands.sacct(tasks)

    @classmethod
    def notes(cls, sweep: Sweep) -> list[str]:
        records = Records(sweep)
        said = task_ends.notes(records)
        for user in records.users():
            if (left := records.unsubmitted(user)) is not None:
                whose = "" if user == os.getuid() else f" of {user_name(user)}'s"
                without = f"{left['jobs']} jobs{whose} without a task of their own ({left['why']})"
                said.append(f"{without}: tasks that end submit them, and so does the next launch.")
        return said

    @classmethod
    def stillborn_log(cls, sweep: Sweep, job: str) -> Path | None:
        return task_ends.stillborn_log(Records(sweep), job)

    @classmethod
    def cancel(cls, sweep: Sweep, jobs: set[str]) -> Mapping[str, str]:
        """Take back the tasks that wait in the queue for these jobs, for some that are over, or for some that
        no plan wants. One that runs sees the cancel itself, saves, and goes on with another job."""
        records = Records(sweep)
        sweep_jobs = SweepJobs(sweep, sweep.plans())
        wanted = {planned_job.job.id for planned_job in sweep_jobs.unfinished()}
        wanted |= sweep.job_ids() - set(sweep_jobs.by_id)
        queue = read_queue(records, adopt=True)
        unwanted = [task for job, tasks in queue.items() if job not in wanted - jobs for task in tasks]
        waiting = [task for task in unwanted if task.pending]
        theirs = {task.name: f"{task.owner}'s" for task in waiting if task.owner}
        own = [task.name for task in waiting if not task.owner] + late_tasks(records)
        return theirs | commands.scancel(own)
