"""A sweep on the box: launched by the command, watched through Slurm, and held against an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweepctl.collect.tables import collect
from sweepctl.launch.slurm.records import Records
from sweepctl.store import attempts
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from tests.conftest import Undisturbed

SETTINGS = {
    "resources.gpus_per_node": "null",
    "resources.cpus_per_task": 1,
    "resources.time_min": 10,
    "save_ahead_s": 30,
    "parallel": 3,
    "execution.device": "cpu",
    "execution.checkpoint_every_s": 0.2,
    "execution.log_every_steps": 5,
}


def until(true: Callable[[], Any], patience_s: float = 240, why: Callable[[], str] = lambda: "") -> Any:
    """Wait for something that has to come."""
    deadline = time.monotonic() + patience_s
    while not (reached := true()):
        assert time.monotonic() < deadline, f"waited too long: {why()}"
        time.sleep(0.1)
    return reached


def waits_for(file: Path) -> dict[str, Any]:
    """Settings under which tasks wait, before their first line of Python, until there is such a file: what is
    submitted can be looked at while all of it is in the queue."""
    return {"setup": f"['until [ -e {file} ]; do sleep 0.1; done']"}


class OnSlurm:
    """One sweep, its settings as overrides (`a__b=1` sets a.b), and the box that it runs on."""

    def __init__(self, box: Any, sweep_jobs: SweepJobs, undisturbed: Undisturbed, **settings: Any) -> None:
        self.box, self.sweep_jobs, self.undisturbed = box, sweep_jobs, undisturbed
        self.settings = SETTINGS | {key.replace("__", "."): value for key, value in settings.items()}
        self.environment = {**box.environment(), "OMP_NUM_THREADS": "1"}
        self.records = Records(sweep_jobs.sweep)

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run sweepctl as a user would."""
        return subprocess.run(
            [sys.executable, "-m", "sweepctl", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def launch_command(self, *extra: str) -> list[str]:
        settings = [f"{key}={value}" for key, value in self.settings.items()]
        return ["launch", self.sweep_jobs.sweep.name, "--on", "slurm", "--json", *settings, *extra]

    def launch(self, *extra: str, **environment: str) -> dict[str, Any]:
        done = self.command(*self.launch_command(*extra), **environment)
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout.strip()

    def tasks(self) -> dict[str, tuple[str, str]]:
        """Task -> state and reason, of this sweep."""
        tasks = {}
        for line in self.ask("squeue", "-h", "-r", "-o", "%i|%T|%r|%j").splitlines():
            task, state, reason, name = line.split("|")
            if name.startswith(f"{self.sweep_jobs.sweep.name}."):
                tasks[task] = (state, reason)
        return tasks

    def running(self) -> list[str]:
        return [task for task, (state, _) in self.tasks().items() if state == "RUNNING"]

    def finished(self) -> bool:
        return not list(SweepJobs(self.sweep_jobs.sweep, self.sweep_jobs.plans).unfinished())

    def at_rest(self) -> bool:
        """The newest attempt of every job has said why it ended, which comes after its result, or cannot."""
        newest = (attempts.newest(entry.folder) for entry in self.sweep_jobs.by_id.values())
        return not any(attempt is not None and attempt.alive() for attempt in newest)

    def quiet(self) -> bool:
        """Nothing of the sweep runs or is about to."""
        return all("held" in reason.lower() for _, reason in self.tasks().values())

    def finish(self, launches: int = 1, patience_s: float = 300) -> int:
        """Wait for the end, launching again where the queue is empty before it; how many times that took."""
        for again in range(launches + 1):
            until(lambda: self.finished() or self.quiet(), patience_s, self.story)
            if self.finished():
                until(self.at_rest, patience_s, self.story)
                return again
            if again < launches:
                self.launch()
        raise AssertionError(f"it does not end: {self.story()}")

    def same_as_undisturbed(self) -> bool:
        collect(self.sweep_jobs)
        return (self.sweep_jobs.sweep.folder / "runs.parquet").read_bytes() == self.undisturbed.runs(
            self.sweep_jobs
        )

    def records_of(self, entry: PlannedJob) -> list[dict[str, Any]]:
        return [attempt.record for attempt in attempts.every(entry.folder)]

    def reached(self, entry: PlannedJob, step: int) -> bool:
        """Whether the job's newest attempt lives and is past a step."""
        last = attempts.newest(entry.folder)
        return last is not None and last.alive() and int(last.progress().get("step", 0)) > step

    def story(self) -> str:
        """What the tasks printed."""
        logs = sorted(self.records.folder.glob("arrays/*/*_log.out"))
        return "\n".join([str(self.tasks()), *(f"{log.name}\n{log.read_text()}" for log in logs)])[-6000:]

    def task_pids(self, task: str) -> list[int]:
        """The processes of a task's supervisor."""
        array_id, _, index = task.partition("_")
        wanted = {f"SLURM_ARRAY_JOB_ID={array_id}".encode(), f"SLURM_ARRAY_TASK_ID={index}".encode(),
                  f"SLURM_CONF={self.box.conf}".encode()}  # fmt: skip
        pids = []
        for entry in os.listdir("/proc"):
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                if entry.isdigit() and b"sweepctl.launch.slurm.task" in words and b"srun" not in words[0]:
                    variables = set(Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"))
                    if wanted <= variables:
                        pids.append(int(entry))
            except OSError:
                continue
        return pids
