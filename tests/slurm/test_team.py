"""A job of several processes on two nodes: the curve of one process, checkpoints that move between them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from sweepctl.collect.tables import collect, lineage
from sweepctl.store import attempts
from sweepctl.store.sweep_jobs import SweepJobs
from tests.conftest import only, run_all

from .cluster import OnSlurm, until

TWO_BY_TWO = {"resources.nodes": 2, "resources.tasks_per_node": 2}


def losses(sweep: OnSlurm) -> pd.Series[float]:
    collect(sweep.sweep_jobs)
    return pd.read_parquet(sweep.sweep_jobs.sweep.folder / "runs.parquet").loss_nats


def undisturbed_losses(sweep: OnSlurm) -> tuple[pd.Series[float], SweepJobs]:
    """The same sweep trained by one process."""
    sweep_jobs = sweep.undisturbed.sweep_jobs(sweep.sweep_jobs)
    return pd.read_parquet(sweep_jobs.sweep.folder / "runs.parquet").loss_nats, sweep_jobs


def test_two_nodes_train_what_one_process_trains(on_slurm: Callable[..., OnSlurm]) -> None:
    sweep = on_slurm(TWO_BY_TWO, name="team", ladder__depths=[1], budget__tokens=[12_800, 25_600])
    sweep.launch()
    sweep.finish(launches=0)
    expected, sweep_jobs = undisturbed_losses(sweep)
    assert losses(sweep).to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-5)
    for entry in sweep.sweep_jobs.by_id.values():
        [record] = sweep.records_of(entry)
        assert record["world_size"] == 4 and record["micro_batch_rows"] == 1
        other_folder = sweep_jobs.by_id[entry.job.id].folder
        mine = {row["step"]: row for row in lineage(entry.folder, attempts.every(entry.folder))}
        other = {row["step"]: row for row in lineage(other_folder, attempts.every(other_folder))}
        assert set() != mine.keys() <= other.keys()  # other tests may have left it less of its trunk, or more
        for step, row in mine.items():
            for key in ("train_loss_nats", "loss_nats"):
                if key in row or key in other[step]:
                    assert row[key] == pytest.approx(other[step][key], rel=1e-4), (step, key)


def test_a_run_moves_between_world_sizes(on_slurm: Callable[..., OnSlurm]) -> None:
    """Begun by four processes, one of which is killed, gone on with by one."""
    study = {"ladder__depths": [1], "budget__tokens": [64_000, 128_000]}
    # a small learning rate: at a large one rounding grows to percents over two thousand steps
    sweep = on_slurm({**TWO_BY_TWO, "parallel": 1}, name="moving", optimizer__lr=0.001, **study)
    sweep.launch()
    [trunk] = only(sweep.sweep_jobs, "trunk")
    until(lambda: sweep.reached(trunk, 100), why=sweep.story)
    worker = int(attempts.newest(trunk.folder).record["pid"])
    for pid in followers(worker):
        os.kill(pid, signal.SIGKILL)
        break
    until(lambda: attempts.newest(trunk.folder).number > 1 and sweep.reached(trunk, 200), why=sweep.story)
    assert sweep.records_of(trunk)[0]["why"] == "infrastructure"
    sweep.ask("scancel", *sweep.tasks())
    until(lambda: not sweep.tasks() and not attempts.newest(trunk.folder).alive(), why=sweep.story)
    sweep.launch("resources.nodes=1", "resources.tasks_per_node=1")
    sweep.finish(launches=0)
    sizes = [record["world_size"] for record in sweep.records_of(trunk)]
    assert sizes[0] == sizes[1] == 4 and sizes[-1] == 1
    expected, _ = undisturbed_losses(sweep)
    assert losses(sweep).to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-3)


def followers(leader: int) -> list[int]:
    """Workers of the same Slurm job that are not the first one."""
    job = variable(leader, b"SLURM_JOB_ID")
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != leader:
            words = read(f"/proc/{entry}/cmdline").split(b"\0")
            if b"sweepctl.train.worker" in words and variable(int(entry), b"SLURM_JOB_ID") == job:
                pids.append(int(entry))
    return pids


def variable(pid: int, name: bytes) -> bytes:
    lines = read(f"/proc/{pid}/environ").split(b"\0")
    return next((line.partition(b"=")[2] for line in lines if line.startswith(name + b"=")), b"")


def read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_rows_that_three_processes_cannot_share(on_slurm: Callable[..., OnSlurm], planned: Any) -> None:
    """Rows that the processes cannot share are a request that cannot be met, in one sentence."""
    sweep = on_slurm({"resources.tasks_per_node": 3}, name="uneven", ladder__depths=[1])
    sweep.launch()
    until(sweep.quiet, why=sweep.story)
    [trunk] = only(sweep.sweep_jobs, "trunk")
    [record] = sweep.records_of(trunk)
    assert record["why"] == "request" and "3" in record["error"] and len(record["error"].splitlines()) == 1
    run_all(sweep.sweep_jobs)
    assert sweep.finished()
