"""Everything at once, in a seeded order: every kind of fault at least once, the same results."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweepctl.store import attempts, checkpoints
from tests.conftest import Planner, only
from tests.store.test_storage import fill

from .cluster import OnSlurm, until
from .test_survive import FAULTS, back, down

AT_WORK = ("started", "step", "write", "rename", "renamed", "error", "memory", "result", "resulted")
"""Faults that workers meet at windows of their work (tests/launch/faults), each once."""
FATES = {"worker": AT_WORK, "task": ("launcher",), "launcher": ("launcher",), "stillborn": ("stillborn",)}
"""Those too of supervisors, launches, and scripts before their first line of Python: the first ones of a kind
meet them."""
FROM_OUTSIDE = (
    *("preempt", "requeue", "scancel", "kill task", "kill worker", "node", "split brain", "controller"),
    *("torn", "disk"),
)
BUDGETS = [16_000, 64_000, 160_000, 400_000]
MORE = 240_000
"""How much longer a budget is asked for where all is trained while faults are left."""


def study(budgets: list[int]) -> dict[str, Any]:
    """A batch is one row: what runs out of memory is tried again with it, and every bit stays."""
    grid = {"axes": {"seed.init": [0, 1]}}
    return {"ladder__depths": [1], "batch__tokens": 16, "budget__tokens": budgets, "grid": grid}


class Chaos:
    """Faults from outside, each where something of the sweep runs."""

    def __init__(
        self, sweep: OnSlurm, planned: Planner, store: Path, tmp_path: Path, draw: random.Random
    ) -> None:
        self.sweep, self.planned = sweep, planned
        self.store, self.tmp_path, self.draw = store, tmp_path, draw
        self.budgets = BUDGETS
        self.done: Counter[str] = Counter()

    def steps(self) -> int:
        newest = (attempts.newest(planned_job.folder) for planned_job in self.sweep.sweep_jobs.by_id.values())
        return sum(int(last.progress().get("step", 0)) for last in newest if last is not None)

    def target(self) -> str:
        """A task that trains, or at least runs; launches where nothing is left in the queue."""
        tries = 0

        def running_tasks() -> list[str]:
            nonlocal tries
            tries += 1
            for node in self.sweep.ask("sinfo", "-h", "-N", "-t", "drain,down", "-o", "%N").split():
                self.sweep.ask("scontrol", "update", f"nodename={node}", "state=resume")
            if self.sweep.quiet() and not self.sweep.finished():
                self.sweep.command(*self.sweep.launch_command())
            if self.sweep.finished():  # a machine faster than the faults
                self.budgets = [*self.budgets, self.budgets[-1] + MORE]
                self.sweep.sweep_jobs = self.planned(name="chaos", **study(self.budgets))
                self.sweep.command(*self.sweep.launch_command())
            running = sorted(self.sweep.running())
            newest = (
                attempts.newest(planned_job.folder) for planned_job in self.sweep.sweep_jobs.by_id.values()
            )
            alive = {last.record.get("scheduler_id") for last in newest if last is not None and last.alive()}
            return [task for task in running if task in alive] or (running if tries > 20 else [])

        return self.draw.choice(until(running_tasks, 120, self.sweep.story))

    @staticmethod
    def met(faults: Path) -> Counter[str]:
        """Which fates were met, and how often."""
        return Counter(path.name.rpartition("-")[0] for path in (faults / "dead").iterdir())

    def trains(self) -> bool:
        newest = (attempts.newest(planned_job.folder) for planned_job in self.sweep.sweep_jobs.by_id.values())
        return bool(self.sweep.running()) or any(last is not None and last.alive() for last in newest)

    def node_of(self, task: str) -> str:
        return self.sweep.ask("squeue", "-h", "-r", "-j", task, "-o", "%N")

    def strike(self, kind: str) -> None:
        task = self.target()
        getattr(self, "_" + kind.replace(" ", "_"))(task)
        self.done[kind] += 1

    def _preempt(self, task: str) -> None:
        out = self.tmp_path / f"strong-{self.done['preempt']}"
        node = self.node_of(task) or "node1"
        self.sweep.ask("sbatch", "--partition=gpu", "--exclusive", f"--nodelist={node}", f"--output={out}",
                       "--wrap", "true")  # fmt: skip
        until(out.exists, 120, self.sweep.story)

    def _requeue(self, task: str) -> None:
        self.sweep.ask("scontrol", "requeue", task)

    def _scancel(self, task: str) -> None:
        self.sweep.ask("scancel", task)

    def _kill_task(self, task: str) -> None:
        for pid in self.sweep.task_pids(task):
            os.kill(pid, signal.SIGKILL)

    def _kill_worker(self, task: str) -> None:
        for planned_job in self.sweep.sweep_jobs.by_id.values():
            last = attempts.newest(planned_job.folder)
            if last is not None and not last.ended and last.alive():
                os.kill(int(last.record["pid"]), signal.SIGKILL)
                return

    def _node(self, task: str, dead: bool = True) -> None:
        node = self.node_of(task)
        if not node:
            return
        self.sweep.box.kill(node)
        if dead:
            self._kill_task(task)
        down(self.sweep, node)
        back(self.sweep, node)

    def _split_brain(self, task: str) -> None:
        self._node(task, dead=False)

    def _controller(self, task: str) -> None:
        self.sweep.box.kill("slurmctld", signal.SIGTERM)
        self.sweep.box.up()

    def _torn(self, task: str) -> None:
        trunks = [e for e in only(self.sweep.sweep_jobs, "trunk") if checkpoints.steps(e.folder)]
        if not trunks:
            return
        trunk = self.draw.choice(trunks)
        newest = checkpoints.at(trunk.folder, checkpoints.steps(trunk.folder)[-1])
        file = newest.path / "weights.safetensors"
        if file.exists():
            data = file.read_bytes()
            file.write_bytes(data[: len(data) // 2] if self.draw.random() < 0.5 else data[:-1] + b"\7")

    def _disk(self, task: str) -> None:
        ballast = fill(self.store, 4096)
        before = self.steps()
        logs = self.sweep.records.folder.glob("arrays/*/*.out")
        sizes = {log: log.stat().st_size for log in logs}

        def refused() -> bool:
            texts = (log.read_bytes()[size:] for log, size in sizes.items())
            return any(b"disk is full" in text for text in texts) or self.steps() > before + 20_000

        try:
            until(lambda: refused() or not self.sweep.running(), 60)
        finally:
            ballast.unlink()


def prepare(folder: Path) -> dict[str, Any]:
    """Lay out the fates; the launcher's settings that have processes meet them."""
    for name in ("taken", "dead"):
        (folder / name).mkdir(parents=True)
    for kind, windows in FATES.items():
        for number, window in enumerate(windows):
            (folder / f"{kind}-{number:02d}").write_text(f"{window} 0")
    first = f"f=$(ls {folder}/stillborn-* 2>/dev/null | head -1)"
    then = f'[ -n \\"$f\\" ] && mv \\"$f\\" {folder}/dead/stillborn-$SLURM_JOB_ID.$SLURM_RESTART_COUNT'
    setup = f'"{first}; if {then}; then exit 1; fi"'
    return {
        "environment.FAULTS": str(folder),
        "environment.PYTHONPATH": str(FAULTS),
        "setup": f"[{setup}]",
        "resources.partition": "preempt",
        "retries.died": 20,
    }


@pytest.mark.parametrize("small", ["32m"], indirect=True)
def test_chaos(
    on_slurm: Callable[..., OnSlurm], planned: Planner, workspace: Any, small: Path, tmp_path: Path
) -> None:
    (workspace.root / "store").symlink_to(small)
    draw = random.Random(20)
    faults = tmp_path / "faults"
    sweep = on_slurm({**prepare(faults), "execution.keep": "none"}, name="chaos", **study(BUDGETS))
    sweep.environment |= {"FAULTS": str(faults), "PYTHONPATH": str(FAULTS)}
    chaos = Chaos(sweep, planned, small, tmp_path, draw)
    for kind in draw.sample(FROM_OUTSIDE, len(FROM_OUTSIDE)):
        for window in ("result", "resulted"):  # only whoever ends a branch meets these
            if not chaos.met(faults)[window]:
                (faults / f"worker-{window}").write_text(f"{window} 0")
        chaos.strike(kind)
    for window in AT_WORK:  # again where the worker died of something else before it met its fate
        while not chaos.met(faults)[window]:
            (faults / "worker-00").write_text(f"{window} 0")
            chaos.strike("kill worker")
            until(lambda window=window: chaos.met(faults)[window] or not chaos.trains(), 240, sweep.story)
    for _ in range(12):
        until(lambda: sweep.finished() or sweep.quiet(), 300, sweep.story)
        if sweep.finished():
            break
        sweep.command(*sweep.launch_command())
    assert sweep.finished(), sweep.story()
    met = chaos.met(faults)
    assert all(met[window] for windows in FATES.values() for window in windows), met
    assert all(chaos.done[kind] for kind in FROM_OUTSIDE), chaos.done
    assert sweep.same_as_undisturbed()
