"""What a compute node is like: `python -m sweepctl.launch.slurm.node_report FOLDER`, sent by the doctor.

One process a node answers, in FOLDER:

    N.begun        node N is here; at once
    N.answer       written by the doctor when it has seen that
    N.json         what was found
    N/             where the node tries the file system

It imports little, so that what cannot be imported here is an answer, not a crash.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

from sweepctl.errors import SweepctlError
from sweepctl.launch.disk import try_out
from sweepctl.launch.machine import ask_torch
from sweepctl.launch.slurm import commands
from sweepctl.resources import code_version
from sweepctl.spec.build import plain
from sweepctl.store.files import write_json, write_text

ANSWER_S = 45.0
"""How long a node waits to see what the doctor wrote."""
NEEDED = ("scontrol", "squeue", "sbatch")
"""What tasks call where commands_on_nodes is true."""


def main(folder: Path) -> int:
    """Look around; the exit code."""
    if int(os.environ.get("SLURM_LOCALID", "0")):
        return 0
    number = int(os.environ.get("SLURM_NODEID", "0"))
    report: dict[str, Any] = {
        "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "code": code_version(),
        "round_trip_s": _round_trip_s(folder, number),
        "disk": _disk(folder / str(number)),
        "missing": _missing(),
        "commands_fail": _commands_fail(folder / "launch.sh"),
    }
    write_json(folder / f"{number}.json", {**report, **ask_torch()})
    return 0


def _round_trip_s(folder: Path, number: int) -> float | None:
    """How long until what is written here is seen there, and an answer here; None: never."""
    began = time.monotonic()
    write_text(folder / f"{number}.begun", "")
    while time.monotonic() - began < ANSWER_S:
        if (folder / f"{number}.answer").exists():
            return time.monotonic() - began
        time.sleep(0.1)
    return None


def _disk(folder: Path) -> dict[str, Any]:
    try:
        return dict(plain(try_out(folder)))
    except (OSError, SweepctlError) as error:
        return {"faults": [str(error)], "ahead_s": 0.0, "sync_s": 0.0, "free_bytes": 0}


def _missing() -> str | None:
    """What a task would fail to import."""
    for name in ("submitit", "sweepctl.launch.slurm.supervisor"):
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a broken installation raises
            return f"{type(error).__name__}: {error}"
    return None


def _commands_fail(script: Path) -> str | None:
    """Why jobs cannot call Slurm's commands here; None: they can, and may submit the launch's script."""
    gone = [name for name in NEEDED if shutil.which(name) is None]
    if gone:
        return f"{', '.join(gone)} not on the PATH"
    try:
        commands.settings()
        commands.in_queue("--me")
        commands.test_only(script.read_text())
    except commands.SlurmError as error:
        return str(error).rstrip(".")
    return None


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
