"""How fast a large sweep is read: `sweepctl status` and `sweepctl collect` of 10,000 jobs, as commands.

The plan is a real one; the job folders are written as trainers and launchers leave them: several attempts
with their records, heartbeats and metrics, results, checkpoint folders, wishes. No weights.

python -m benchmarks.status [--jobs N] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sweepctl.plan.expand import expand
from sweepctl.plan.plan import Job, Plan
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.store.attempts import boot_id, process_start
from sweepctl.store.job import JobFolder, Wish
from sweepctl.store.workspace import Workspace

COMMANDS = {"status": ["status", "large"], "status --json": ["status", "large", "--json"],
            "collect": ["collect", "large"]}  # fmt: skip
BUDGETS = "budget.tokens=[2e6,3e6,4e6,6e6,8e6,12e6,16e6]"
STORIES = ("done", "done", "done", "done", "done", "done", "running", "failed", "new", "forked")
"""What became of a trunk, in turns. Of a forked one the branches are done, run, failed and were stopped."""
EXECUTION = {"device": "auto", "threads": 1, "gemm": "auto", "keep": "all", "curve_tokens": 16384}
VERSIONS = {"sweepctl": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "numpy": "2.3.0"}
ROWS = 24
"""Metrics rows an attempt."""


def study_of(jobs: int) -> Any:
    """Five rungs, 25 learning rates, seeds as many as it takes: a trunk and seven branches each."""
    from sweepctl.spec.compose import compose_study

    seeds = max(1, jobs // (8 * 5 * 25))
    return compose_study(
        [
            *("name=large", "stages={}", "ladder.depths=[1,2,3,4,5]", "budget.flops=[]", BUDGETS),
            *("budget.max_tokens=null", "budget.min_tokens_per_parameter=0", "budget.min_steps=0"),
            *("grid.axes.optimizer.lr={log: {from: 1e-4, to: 1e-1, count: 25}}",),
            f"grid.axes.seed.init={{seeds: {seeds}}}",
        ]
    )


def build(workspace: Workspace, jobs: int) -> Counter[str]:
    """Plan the sweep and write its folders; the number of jobs by what became of them."""
    study = study_of(jobs)
    plan = expand(study, "all", CorpusFacts("0" * 32, 256, 10_000_000, ("validation",)))
    workspace.sweep(study.name).save({"all": plan})
    counts: Counter[str] = Counter()
    for place, (trunk, branches) in enumerate(plan.branches.items()):
        story = STORIES[place % len(STORIES)]
        writer = Writer(workspace, plan, attempts=1 + place % 3)
        writer.trunk(plan.by_id[trunk], branches, story)
        counts[story] += 1
        for number, branch in enumerate(branches):
            of_branch = {"done": "done", "forked": ("done", "running", "failed", "stopped")[number % 4]}
            writer.branch(branch, of_branch.get(story, "new"))
            counts[of_branch.get(story, "new")] += 1
    return counts


class Writer:
    """Writes job folders of one plan as they would be found, fast and not durably."""

    def __init__(self, workspace: Workspace, plan: Plan, attempts: int) -> None:
        self.workspace, self.plan, self.attempts = workspace, plan, attempts

    def trunk(self, job: Job, branches: list[Job], story: str) -> None:
        """A trunk with its wishes; the checkpoints of its cuts as far as it came."""
        folder = self.workspace.job(job.id)
        (folder.path / "wanted").mkdir(parents=True)
        for branch in branches:
            (folder.path / "wanted" / Wish(branch.cut or 0, branch.id, "large").file).touch()
        reached = {"done": job.end, "forked": job.end, "new": 0}.get(story, job.end // 8)
        for cut in sorted({b.cut or 0 for b in branches if (b.cut or 0) <= reached}):
            self._checkpoint(folder, cut)
        self._attempts(folder, job, "done" if story == "forked" else story, reached)

    def branch(self, job: Job, story: str) -> None:
        """A branch; its result where it is done."""
        folder = self.workspace.job(job.id)
        self._attempts(folder, job, story, job.end if story == "done" else (job.cut or 0) + 1)
        if story == "done":
            self._checkpoint(folder, job.end)
            result = {"state": "done", "step": job.end, "tokens": self.plan.tokens(job), "attempt": 1}
            result |= {"loss_nats": {"validation": 2.5}, "bits_per_byte": {"validation": 3.6}}
            _write(folder.path / "result.json", result)

    def _attempts(self, folder: JobFolder, job: Job, story: str, reached: int) -> None:
        if story == "new":
            return
        folder.path.mkdir(parents=True, exist_ok=True)
        _write(folder.path / "job.json", self.plan.science(job).record())
        for number in range(1, self.attempts + 1):
            why = story if number == self.attempts else "stopped"
            path = folder.attempts / f"{number:04d}"
            path.mkdir(parents=True)
            _write(path / "attempt.json", self._record(job, number, why, reached))
            tokens = reached * self.plan.batch_tokens(job)
            (path / "heartbeat.json").write_text(f'{{"step": {reached}, "tokens": {tokens}}}\n')
            (path / "metrics.jsonl").write_text("".join(map(_row, range(10, 10 + 10 * ROWS, 10))))

    def _record(self, job: Job, number: int, why: str, reached: int) -> dict[str, Any]:
        now = time.time()
        record: dict[str, Any] = {"attempt": number, "host": os.uname().nodename, "pid": os.getpid()}
        record |= {"boot": boot_id(), "process_start": process_start(os.getpid()), "started": now - 600}
        record |= {"launcher": "local", "log": "/tmp/local-1-0.log", "scheduler_id": None}
        record |= {"execution": EXECUTION, "versions": VERSIONS, "code": "0123456789abcdef"}
        record |= {"environment": ["OMP_NUM_THREADS"], "started_from": None, "start_step": 0}
        record |= {"start_tokens": 0, "device": "cpu", "gemm": "onednn", "start_lr": 0.001}
        if why == "running":
            return record
        tokens = reached * self.plan.batch_tokens(job)
        record |= {"ended": now, "why": why, "end_step": reached, "trained_tokens": tokens}
        record |= {"train_s": tokens / 5e4, "tokens_per_s": 5e4, "mfu": None}
        if why == "failed":
            record["error"] = "Traceback (most recent call last):\n" * 11 + "ValueError: no such thing"
        return record

    @staticmethod
    def _checkpoint(folder: JobFolder, step: int) -> None:
        path = folder.checkpoints / f"step-{step:08d}"
        path.mkdir(parents=True, exist_ok=True)
        manifest = {"job": folder.id, "step": step, "attempt": 1, "parent": None, "files": {}}
        _write(path / "manifest.json", manifest)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def _row(step: int) -> str:
    row = {"step": step, "tokens": step * 2048, "train_loss_nats": 3.0, "lr": 0.001, "grad_norm": 0.5}
    return json.dumps(row | {"tokens_per_s": 50_000, "flops_per_s": 1e9}) + "\n"


def measure(folder: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of every command, each in a process of its own; the first round does not count."""
    from benchmarks.side_by_side import take_turns

    environment = {**os.environ, "SWEEPCTL_HOME": folder}

    def action(arguments: list[str]) -> None:
        command = [sys.executable, "-m", "sweepctl", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)

    seconds = take_turns([lambda a=a: action(a) for a in COMMANDS.values()], rounds)  # type: ignore[misc]
    return {name: sorted(times) for name, times in zip(COMMANDS, seconds, strict=True)}


def main() -> None:
    """Build the store in a temporary folder, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    from benchmarks.side_by_side import machine

    with tempfile.TemporaryDirectory() as folder:
        counts = build(Workspace(Path(folder)), arguments.jobs)
        rows = measure(folder, arguments.rounds)
    if arguments.json:
        print(json.dumps({"machine": machine(), "jobs": dict(counts), "seconds": rows}, indent=1))
        return
    print(f"a sweep of {counts.total():,} jobs, files in the page cache; {machine()}")
    for name, times in rows.items():
        print(f"  sweepctl {name:14} median {statistics.median(times):6.2f} s, slowest {times[-1]:6.2f} s")


if __name__ == "__main__":
    main()
