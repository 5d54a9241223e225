"""A slurmbox with a workspace, whose Slurm commands note every call: what benchmarks of launches run on."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "launchers" / "slurmbox"))
from box import Box, search_path  # noqa: E402

COUNTED = ("sbatch", "scontrol", "squeue", "scancel", "sacct", "sinfo", "sdiag")
BASE = [
    *("data=synthetic", "stages={}", "precision=fp32", "budget.flops=[]", "budget.max_tokens=null"),
    *(
        "budget.min_tokens_per_parameter=0",
        "budget.min_steps=0",
        "batch.context=32",
        "validation.tokens=2048",
    ),
    *("validation.curve_tokens=512", "validation.curve_per_octave=1"),
]
SITE = ["resources.gpus_per_node=1", "resources.cpus_per_task=1", "execution.device=cpu"]
SMALL = ["ladder.depths=[2]", "batch.tokens=64"]
BEGIN = 'setup=["date +%s.%N > $SWEEPCTL_ARRAY/tasks/$SLURM_ARRAY_TASK_ID.script"]'
"""Notes when a task's batch script begins."""


@dataclass
class Site:
    """A box, a workspace with a corpus, and Slurm's commands in wrappers that note every call."""

    folder: Path
    """Holds all of it."""
    box: Box
    """The running Slurm."""

    @property
    def environment(self) -> dict[str, str]:
        variables = self.box.environment()
        return variables | {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{variables['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SWEEPCTL_HOME": str(self.folder / "sweeps"),
            "OMP_NUM_THREADS": "1",
        }

    def ask(self, *command: str) -> str:
        """What a command prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def calls(self) -> list[tuple[float, str, str]]:
        """When, which command, with what: everything since the last `forget`."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [(float(at), name, rest) for at, name, rest in (line.split(" ", 2) for line in lines)]

    def forget(self) -> None:
        (self.folder / "calls").write_text("")

    def plan(self, name: str, *overrides: str) -> int:
        """Plan a study in the workspace; its jobs."""
        from sweepctl.data.shards import read_index
        from sweepctl.plan.expand import expand
        from sweepctl.spec.compose import compose_study
        from sweepctl.store.workspace import Workspace

        workspace = Workspace(self.folder / "sweeps")
        index = read_index(workspace.corpus("synthetic"))
        study = compose_study([f"name={name}", *BASE, *overrides])
        plan = expand(study, "all", index.facts)
        workspace.sweep(name).save({"all": plan})
        return len(plan.jobs)

    def launch(self, name: str, *words: str) -> float:
        """Seconds of `sweepctl launch NAME --on slurm`."""
        began = time.perf_counter()
        self.ask(sys.executable, "-m", "sweepctl", "launch", name, "--on", "slurm", *SITE, *words)
        return time.perf_counter() - began

    def sweep_jobs(self, name: str) -> Any:
        from sweepctl.store.sweep_jobs import SweepJobs
        from sweepctl.store.workspace import Workspace

        sweep = Workspace(self.folder / "sweeps").sweep(name)
        return SweepJobs(sweep, sweep.plans())

    def arrays(self, name: str) -> list[Path]:
        """Folders of what was submitted."""
        return list((self.folder / "sweeps" / name / "slurm" / "arrays").iterdir())

    def drain(self) -> None:
        """Wait until the queue is empty."""
        until(lambda: not self.ask("squeue", "-h", "-t", "PD,R,CG,S,CF"))


@contextmanager
def site(*settings: str) -> Iterator[Site]:
    """A box of its own with 3 nodes, ended afterwards."""
    from sweepctl.data.corpora import prepare_synthetic

    with tempfile.TemporaryDirectory(prefix="slurmbench-") as name:
        folder = Path(name)
        (folder / "bin").mkdir()
        for command in COUNTED:
            real, shim = shutil.which(command, path=search_path()), folder / "bin" / command
            shim.write_text(
                f'#!/bin/sh\necho "$(date +%s.%N) {command} $*" >> {folder}/calls\nexec {real} "$@"\n'
            )
            shim.chmod(0o755)
        epilog = folder / "epilog"
        epilog.write_text(f"#!/bin/sh\ndate +%s.%N >> {folder}/ends\n")
        epilog.chmod(0o755)
        here = Site(folder, Box(folder / "box", 3, "\n".join([f"Epilog={epilog}", *settings])))
        here.forget()
        prepare_synthetic(folder / "sweeps" / "data" / "synthetic", 0, 8_000_000, 100_000)
        try:
            here.box.up()
            yield here
        finally:
            here.box.down()


def until(condition: Callable[[], Any], patience_s: float = 600.0) -> Any:
    """Wait until something is true; its value."""
    deadline = time.monotonic() + patience_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"waited for more than {patience_s:.0f} s")
        time.sleep(0.2)
    return value


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "worst": max(values)}


def daemons() -> dict[str, str]:
    return {**os.environ, "PATH": search_path()}
