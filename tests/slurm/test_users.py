"""Two users of one workspace and one cluster: each touches tasks of its own, and is told of the other's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweepctl.launch.slurm.records import user_name
from tests.conftest import Planner

from .cluster import SETTINGS
from .conftest import BOX

NOBODY = 65534


def may_run_python() -> bool:
    """Whether another user can run this interpreter, and this process be another user."""
    try:
        return subprocess.run([sys.executable, "-c", ""], user=NOBODY, cwd="/tmp").returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not may_run_python(), reason="needs root, and an interpreter for everybody")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that both can reach, with a box in it."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o755)
    box = BOX.Box(place / "box", nodes=1)
    box.up()
    (place / "box").chmod(0o755)
    yield place
    box.down()
    shutil.rmtree(place)


def command(place: Path, user: int, *words: str) -> dict[str, Any]:
    environment = BOX.Box(place / "box", nodes=1).environment()
    done = subprocess.run(
        [sys.executable, "-m", "sweepctl", *words, "--json"],
        env={**environment, "SWEEPCTL_HOME": str(place / "sweeps"), "HOME": str(place)},
        cwd="/tmp", user=user, group=user, extra_groups=[], umask=0,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_each_user_touches_its_own_tasks(place: Path, planned: Planner) -> None:
    sweep_jobs = planned(name="team", ladder__depths=[1])
    shutil.copytree(sweep_jobs.sweep.workspace.root, place / "sweeps")
    subprocess.run(["chmod", "-R", "a+rwX", str(place / "sweeps")], check=True)
    settings = [f"{key}={value}" for key, value in SETTINGS.items()]
    launch = [
        "launch",
        "team",
        "--on",
        "slurm",
        *settings,
        "sbatch.begin=now+1hour",
        "environment.TOKEN=s3cret",
    ]
    first = command(place, 0, *launch)
    assert first["submitted"] == 3
    colleague = command(place, NOBODY, *launch)
    assert (colleague["submitted"], colleague["already_queued"]) == (2, 1)
    held = {array["id"] for array in colleague["arrays"]}
    cancelled = command(place, NOBODY, "cancel", "team", "--yes")
    theirs = {f"{array['id']}_{index}" for array in first["arrays"] for index in range(len(array["jobs"]))}
    assert set(cancelled["left_alone"]) == theirs
    assert set(cancelled["left_alone"].values()) == {f"{user_name(0)}'s"}
    status = command(place, NOBODY, "status", "team")
    assert not any(task.partition("_")[0] in held for task in json.dumps(status).split('"'))
    again = command(place, NOBODY, *launch, "resources.time_min=9")
    assert (again["submitted"], again["already_queued"]) == (2, 1)
    assert command(place, 0, "cancel", "team", "--yes")["left_alone"].keys() >= {
        f"{array['id']}_{index}" for array in again["arrays"] for index in range(len(array["jobs"]))
    }
    done = subprocess.run(["grep", "-rl", "s3cret", str(place / "sweeps")], capture_output=True, text=True)
    assert done.stdout == "" and (place / "sweeps" / "team" / "slurm").is_dir()
