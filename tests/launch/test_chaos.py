"""Whatever is killed, wherever it is killed: the same runs.parquet, byte for byte."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from sweepctl.collect.tables import collect
from sweepctl.store.workspace import Workspace
from tests.conftest import Planner, Undisturbed

KILLS = {
    "start": 1,
    "started": 1,
    "step": 4,
    "write": 3,
    "rename": 2,
    "renamed": 2,
    "result": 2,
    "resulted": 2,
}
LAUNCHER_KILLS = 2
STUDY = {"budget__tokens": [1280, 2560, 5120, 10240], "grid": {"axes": {"optimizer.lr": [0.01, 0.02]}}}


def fates(folder: Path, seed: int) -> None:
    """Which window the n-th worker dies in, and after how many passes, in a seeded order."""
    draw = random.Random(seed)
    windows = [window for window, count in KILLS.items() for _ in range(count)]
    draw.shuffle(windows)
    for name in ("taken", "dead"):
        (folder / name).mkdir(parents=True)
    for i, window in enumerate(windows):
        passes = draw.randrange(4) if window in ("step", "write", "rename", "renamed") else 0
        (folder / f"worker-{i:03d}").write_text(f"{window} {passes}")
    for i in range(LAUNCHER_KILLS):
        (folder / f"launcher-{i:03d}").write_text(f"launcher {40 + draw.randrange(100)}")


def met(faults: Path) -> Counter[str]:
    """Which windows were hit, and how often."""
    return Counter(path.name.split("-")[0] for path in (faults / "dead").iterdir())


def put_back(faults: Path) -> None:
    """Leave the fates that nobody met, because their process ended with its launcher, to others."""
    unmatched = met(faults)
    for fate in sorted((faults / "taken").iterdir()):
        window = fate.read_text().split()[0]
        if unmatched[window]:
            unmatched[window] -= 1
        else:
            fate.rename(faults / fate.name)


def launch(name: str, faults: Path) -> int:
    """`sweepctl launch`, as a user would type it, with faults."""
    search = os.pathsep.join([str(Path(__file__).parent / "faults"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "sweepctl", "launch", name, "workers=2", "retries.died=99"]
    settings = ["execution.checkpoint_every_s=0.02"]
    environment = {**os.environ, "FAULTS": str(faults), "PYTHONPATH": search}
    return subprocess.run([*command, *settings], env=environment, stdout=subprocess.DEVNULL).returncode


def test_killed_anywhere_ends_the_same(
    planned: Planner, tmp_path: Path, workspace: Workspace, undisturbed: Undisturbed
) -> None:
    sweep_jobs = planned(name="chaos", **STUDY)
    faults = tmp_path / "faults"
    fates(faults, seed=7)
    ends = [launch("chaos", faults)]
    while ends[-1] != 0:
        assert len(ends) < 10, ends
        put_back(faults)
        ends.append(launch("chaos", faults))
    dead = met(faults)
    assert dead.total() >= 15 and all(dead[window] for window in KILLS), dead
    assert ends.count(-9) == dead["launcher"] > 0
    collect(sweep_jobs)
    assert (sweep_jobs.sweep.folder / "runs.parquet").read_bytes() == undisturbed.runs(sweep_jobs)
    assert not [path for path in workspace.root.rglob(".*") if path.name.startswith((".claim", ".step"))]
