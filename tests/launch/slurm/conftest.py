from __future__ import annotations

from typing import Any

import pytest

from sweepctl.collect.tables import collect
from sweepctl.launch.launcher import Launcher, LaunchRequest, read_launcher
from sweepctl.launch.outcome import Submitted
from sweepctl.launch.retry import choose
from sweepctl.spec.compose import compose_launcher
from sweepctl.store.sweep_jobs import SweepJobs
from tests.conftest import Undisturbed

from .cluster import Cluster, stand_in

OVERRIDES = ("resources.gpus_per_node=null", "execution.device=cpu")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return stand_in(monkeypatch)


def slurm(*overrides: str) -> Launcher[Any]:
    """The launcher of launchers/slurm.yaml, changed for these tests."""
    return read_launcher("slurm", compose_launcher("slurm", [*OVERRIDES, *overrides]))


def launch(sweep_jobs: SweepJobs, *overrides: str, retry: str = "failed") -> Submitted:
    """Launch a sweep as the command does."""
    sweep_jobs = SweepJobs(sweep_jobs.sweep, sweep_jobs.sweep.plans())
    request = LaunchRequest(sweep_jobs, [], choose(sweep_jobs, [retry]))
    submitted = slurm(*overrides).launch(request, None)  # type: ignore[arg-type]
    assert isinstance(submitted, Submitted)
    return submitted


def same(sweep_jobs: SweepJobs, undisturbed: Undisturbed) -> bool:
    """Whether the sweep's table is that of an undisturbed one, byte for byte."""
    collect(sweep_jobs)
    return (sweep_jobs.sweep.folder / "runs.parquet").read_bytes() == undisturbed.runs(sweep_jobs)
