"""Several processes for one job: real ones, over the loopback interface."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweepctl.store import attempts
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from tests.conftest import manifest, only, run_all

NOISE = 1e-5
"""Relative: what another order of the same sums may change in a loss."""


class Team:
    """Processes of one group, as whoever starts them does it. The first speaks the worker's protocol."""

    def __init__(self, size: int, logs: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.logs = [logs / f"team-{port}-{rank}.log" for rank in range(size)]
        self.processes = [self._start(rank, size, port) for rank in range(size)]

    def _start(self, rank: int, size: int, port: int) -> subprocess.Popen[str]:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
        network = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        pipe = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
        with open(self.logs[rank], "w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "sweepctl.train.worker"],
                stdin=pipe,
                stdout=pipe,
                stderr=log,
                text=True,
                env={**os.environ, **network, **{name: str(value) for name, value in place.items()}},
            )

    def tell(self, command: dict[str, Any]) -> None:
        self.processes[0].stdin.write(json.dumps(command) + "\n")
        self.processes[0].stdin.flush()

    def begin(self, sweep_jobs: SweepJobs, planned_job: PlannedJob, **execution: Any) -> None:
        self.tell({"run": dataclasses.asdict(manifest(sweep_jobs, planned_job, **execution))})

    def until(self, event: str) -> dict[str, Any]:
        """What rank 0 says of the next such event."""
        for line in self.processes[0].stdout:
            if (said := json.loads(line))["event"] == event:
                return said
        raise AssertionError(self.logs[0].read_text())

    def run(self, sweep_jobs: SweepJobs, planned_job: PlannedJob, **execution: Any) -> dict[str, Any]:
        self.begin(sweep_jobs, planned_job, **execution)
        return self.until("end")

    def run_all(self, sweep_jobs: SweepJobs, **execution: Any) -> None:
        sweep_jobs.make_wishes()
        for planned_job in [*only(sweep_jobs, "trunk"), *only(sweep_jobs, "branch")]:
            assert self.run(sweep_jobs, planned_job, **execution)["why"] == "done"

    def codes(self, patience_s: float = 20.0) -> list[int]:
        """Exit codes, by rank, of processes that must end by themselves."""
        return [process.wait(patience_s) for process in self.processes]

    def close(self) -> list[int]:
        """The launcher goes: all end."""
        self.processes[0].stdin.close()
        try:
            return self.codes()
        finally:
            self.kill()

    def kill(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


def losses(sweep_jobs: SweepJobs) -> list[dict[str, float]]:
    return [planned_job.folder.result().loss_nats for planned_job in only(sweep_jobs, "branch")]


def curve(planned_job: PlannedJob, key: str | None = None) -> list[float]:
    """Every loss that the job's attempts logged, training and held out, or every value of this key."""
    rows = [
        json.loads(r) for a in attempts.every(planned_job.folder) for r in a.metrics.read_text().splitlines()
    ]
    if key is not None:
        return [row[key] for row in rows if key in row]
    return [row.get("train_loss_nats") or row["loss_nats"]["validation"] for row in rows]


def wipe(sweep_jobs: SweepJobs) -> None:
    for planned_job in sweep_jobs.by_id.values():
        shutil.rmtree(planned_job.folder.path)


def losses_of_one_process(sweep_jobs: SweepJobs) -> list[dict[str, float]]:
    """What several are to come to; nothing of these runs is left."""
    run_all(sweep_jobs)
    expected = losses(sweep_jobs)
    wipe(sweep_jobs)
    return expected


def same(ours: SweepJobs, expected: list[dict[str, float]]) -> None:
    for loss, other in zip(losses(ours), expected, strict=True):
        assert loss == pytest.approx(other, rel=NOISE)
