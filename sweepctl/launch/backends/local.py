"""`--on local`: worker processes on this machine, in the foreground."""

from __future__ import annotations

import os
from collections.abc import Iterator

from sweepctl.launch.doctor import Finding, Say, examine_machine
from sweepctl.launch.launcher import Launcher, LaunchRequest
from sweepctl.launch.local import LocalLaunch, LocalSettings, Watcher, visible_gpus, worker_count
from sweepctl.launch.outcome import ToTrain, Trained
from sweepctl.spec.execution import Execution
from sweepctl.store.workspace import Workspace


class LocalLauncher(Launcher[LocalSettings], kind="local", settings=LocalSettings):
    """It leaves no records beside those of the jobs: the command ends with its work."""

    def execution_of(self, rung: str) -> Execution:
        return self.settings.execution_of(rung)

    def launch(self, request: LaunchRequest, watcher: Watcher) -> Trained:
        request.begin()
        return LocalLaunch(request.sweep_jobs, self.settings, watcher, request.retry).run()

    def rehearse(self, request: LaunchRequest) -> ToTrain:
        return ToTrain(list(request.sweep_jobs.unfinished()))

    def examine(self, workspace: Workspace, say: Say, job: bool, wait_min: float) -> Iterator[Finding]:
        torch_works = True
        for finding in examine_machine(workspace, self.execution):
            torch_works &= (finding.check, finding.verdict) != ("torch", "failed")
            yield finding
        if torch_works:
            yield self._workers()

    def _workers(self) -> Finding:
        workers, threads = worker_count(self.settings, len(visible_gpus())), self.execution.threads
        cores = os.cpu_count() or 1
        text = f"{workers} with {threads} thread(s) each on {cores} cores"
        if workers * threads <= cores:
            return Finding("workers", "ok", text)
        return Finding("workers", "warning", text, f"Set workers to at most {max(1, cores // threads)}.")
