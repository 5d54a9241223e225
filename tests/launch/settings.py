"""Settings of launchers as their files in `launchers/` say, but for what a test changes."""

from __future__ import annotations

from typing import Any

from sweepctl.launch.defaults import build_settings
from sweepctl.launch.local import LocalSettings
from sweepctl.launch.retries import Retries
from sweepctl.launch.slurm.settings import Resources, SlurmSettings
from sweepctl.spec.build import plain
from sweepctl.spec.execution import Execution


def local(workers: int | None = None, retries: Retries | None = None, **execution: Any) -> LocalSettings:
    raw = {"kind": "local", "workers": workers, "retries": plain(retries) if retries else {}}
    return build_settings(LocalSettings, raw | {"execution": plain(Execution(**execution))})


def slurm(**changes: Any) -> SlurmSettings:
    """`slurm(resources={...}, sbatch={...})`."""
    return build_settings(SlurmSettings, {"kind": "slurm", **changes})


def retries(**budgets: int) -> Retries:
    return slurm(retries=budgets).retries


def resources(**changes: Any) -> Resources:
    """Without a GPU, where a test does not ask for one."""
    return slurm(resources={"gpus_per_node": None, **changes}).resources
