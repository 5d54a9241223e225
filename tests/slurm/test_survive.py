"""What a cluster does to jobs. After each of these the sweep ends by itself or after one more launch, and its
runs.parquet is that of an undisturbed run, byte for byte."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sweepctl.collect.tables import collect
from sweepctl.launch.status import status
from sweepctl.store import attempts, checkpoints
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from tests.conftest import only
from tests.store.test_storage import fill

from .cluster import OnSlurm, until

SHORT = {"ladder__depths": [1], "budget__tokens": [64_000, 128_000]}
"""A trunk of 1,500 steps and two branches: a few seconds."""
LONG = {"ladder__depths": [1], "budget__tokens": [128_000, 512_000]}
FAULTS = Path(__file__).parent.parent / "launch" / "faults"


def trunk_of(sweep: OnSlurm) -> PlannedJob:
    [trunk] = only(sweep.sweep_jobs, "trunk")
    return trunk


def begun(sweep: OnSlurm, step: int = 300) -> PlannedJob:
    """Launch, and wait until the trunk is well under way."""
    sweep.launch()
    trunk = trunk_of(sweep)
    until(lambda: sweep.reached(trunk, step), why=sweep.story)
    return trunk


def states(sweep: OnSlurm) -> dict[str, str]:
    return {
        planned_job.job.id: state.state
        for planned_job, state in status(SweepJobs(sweep.sweep_jobs.sweep, sweep.sweep_jobs.plans)).jobs
    }


@pytest.mark.parametrize("who", ["worker", "task"])
def test_a_killed_process(on_slurm: Any, who: str) -> None:
    """The worker is replaced by its task; a task that is gone, by its script, elsewhere."""
    sweep = on_slurm(name=f"killed-{who}", **LONG)
    trunk = begun(sweep)
    if who == "worker":
        os.kill(int(attempts.newest(trunk.folder).record["pid"]), signal.SIGKILL)
    else:
        for pid in sweep.task_pids(attempts.newest(trunk.folder).record["scheduler_id"]):
            os.kill(pid, signal.SIGKILL)
    assert sweep.finish(launches=0) == 0
    assert sweep.same_as_undisturbed()
    if who == "worker":
        assert sweep.records_of(trunk)[0]["why"] == "died"
    else:
        assert sweep.records_of(trunk)[-1]["restart"] == 1


def test_preemption(on_slurm: Any, box: Any, tmp_path: Path) -> None:
    """Signal, checkpoint, requeue, resume: by Slurm's own preemption."""
    sweep = on_slurm({"resources.partition": "preempt", "sbatch.nodelist": "node1"}, name="preempted", **LONG)
    trunk = begun(sweep)
    strong = ("sbatch", "--parsable", "--partition=gpu", "--exclusive", "--nodelist=node1")
    sweep.ask(*strong, f"--output={tmp_path}/strong", "--wrap", "echo here")
    until((tmp_path / "strong").exists, why=sweep.story)
    assert sweep.finish(launches=0) == 0
    assert sweep.same_as_undisturbed()
    first, second, *_ = sweep.records_of(trunk)
    assert first["why"] == "stopped" and second["restart"] == 1
    assert second["started_from"]["step"] == second["start_step"] == first["end_step"] > 0


def test_a_run_longer_than_three_time_limits(on_slurm: Any) -> None:
    """Each time it saves ahead of the limit, is requeued and goes on; no number of restarts ends it."""
    sweep = on_slurm(
        {"resources.time_min": 1, "save_ahead_s": 40, "retries.died": 0},
        name="long", ladder__depths=[1], budget__tokens=[4_096_000], schedule__decay={"fraction": 0.05},
    )  # fmt: skip
    sweep.launch()
    sweep.finish(launches=0, patience_s=600)
    [trunk] = only(sweep.sweep_jobs, "trunk")
    records = sweep.records_of(trunk)
    assert [r["why"] for r in records] == ["stopped"] * (len(records) - 1) + ["done"]
    assert records[-1]["restart"] >= 3
    assert sweep.same_as_undisturbed()


def down(sweep: OnSlurm, node: str) -> None:
    sweep.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")


def back(sweep: OnSlurm, node: str) -> None:
    sweep.box.start(node)
    sweep.ask("scontrol", "update", f"nodename={node}", "state=resume")
    until(sweep.box._ready)


@pytest.mark.parametrize("brain", ["dead", "split"])
def test_a_node_that_fails(on_slurm: Any, box: Any, brain: str) -> None:
    """Its processes die with it; or they live on, and two processes train one job: only the newer may
    write."""
    sweep = on_slurm(name=f"node-{brain}", ladder__depths=[1], budget__tokens=[512_000, 1_280_000])
    trunk = begun(sweep)
    task = attempts.newest(trunk.folder).record["scheduler_id"]
    node = sweep.ask("squeue", "-h", "-r", "-j", task, "-o", "%N")
    old = attempts.newest(trunk.folder)
    processes = (*sweep.task_pids(task), int(old.record["pid"]))
    box.kill(node)
    down(sweep, node)
    if brain == "dead":  # only now: slurmstepd, which lives on, would report a task that failed
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    until(lambda: attempts.newest(trunk.folder).number > 1, why=sweep.story)
    assert attempts.newest(trunk.folder).record["restart"] == 1
    if brain == "split":
        until(lambda: attempts.every(trunk.folder)[0].ended, why=sweep.story)
        # by the newer attempt, or, before that was made, by the newer restart of its task
        assert attempts.every(trunk.folder)[0].record["why"] in ("superseded", "stopped")
        until(lambda: not attempts.process_start(int(old.record["pid"])))
    assert sweep.finish(launches=0) == 0
    assert sweep.same_as_undisturbed()
    back(sweep, node)


def test_a_controller_that_is_away(on_slurm: Any, box: Any) -> None:
    """Checkpoints are written meanwhile; their branches are released when it is back."""
    sweep = on_slurm(name="controller", **LONG)
    trunk = begun(sweep, 100)
    box.kill("slurmctld", signal.SIGTERM)  # it writes its state down; one that crashes forgets young jobs
    first = min(e.job.cut for e in only(sweep.sweep_jobs, "branch"))
    until(lambda: any(step >= first for step in checkpoints.steps(trunk.folder)), why=sweep.story)
    box.up()
    assert sweep.finish(launches=0) == 0
    assert sweep.same_as_undisturbed()


def test_scancel_by_hand(on_slurm: Any) -> None:
    sweep = on_slurm(name="cancelled", **LONG)
    trunk = begun(sweep)
    sweep.ask("scancel", *sweep.tasks())
    until(lambda: not sweep.tasks(), why=sweep.story)
    assert states(sweep)[trunk.job.id] in ("interrupted", "ready")
    assert sweep.finish(launches=1) == 1
    assert sweep.same_as_undisturbed()


def test_out_of_memory(on_slurm: Any, tmp_path: Path) -> None:
    """A real one: the address space of the worker is limited to what half of the batch needs."""
    study = {"ladder__depths": [1], "batch__tokens": 131_072, "budget__tokens": [1_310_720]}
    sweep = on_slurm(name="memory", schedule__warmup_steps=2, **study)
    limit = tmp_path / "python"
    kilobytes = between(sweep, tmp_path)
    limit.write_text(f'#!/bin/sh\nulimit -v {kilobytes}\nexec {sys.executable} "$@"\n')
    limit.chmod(0o755)
    sweep.settings["python"] = str(limit)
    sweep.launch()
    assert sweep.finish(launches=0) == 0
    rows = 131_072 // 16
    whys = []
    for planned_job in sweep.sweep_jobs.by_id.values():
        records = sweep.records_of(planned_job)
        whys += [record["why"] for record in records]
        for before, after in pairwise(records):
            assert before["why"] == "out_of_memory" and before["micro_batch_rows"] == rows
            assert after["micro_batch_rows"] == rows // 2
    assert "out_of_memory" in whys and set(whys) == {"out_of_memory", "done"}
    collect(sweep.sweep_jobs)
    import pandas as pd

    got = pd.read_parquet(sweep.sweep_jobs.sweep.folder / "runs.parquet")
    assert (got.state == "done").all()
    other = pd.read_parquet(sweep.undisturbed.sweep_jobs(sweep.sweep_jobs).sweep.folder / "runs.parquet")
    assert (
        got.drop(columns=["loss_nats", "bits_per_byte"])
        .filter(regex="^(?!loss|bits)")
        .equals(other.drop(columns=["loss_nats", "bits_per_byte"]).filter(regex="^(?!loss|bits)"))
    )
    assert abs(got.loss_nats - other.loss_nats).max() < 1e-5


def between(sweep: OnSlurm, tmp_path: Path) -> int:
    """Kilobytes of address space between what a worker needs for the whole batch and for half of it: both are
    run here and measured."""
    peaks = []
    for rows in (8192, 4096):
        code = f"""
import threading, sys
from pathlib import Path
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.store.workspace import Workspace
from tests.conftest import manifest
from sweepctl.train.job import run
sweep = Workspace(Path({str(tmp_path)!r}) / "probe{rows}").sweep("memory")
sweep_jobs = SweepJobs(sweep, sweep.plans())
sweep_jobs.make_wishes()
[trunk] = [e for e in sweep_jobs.by_id.values() if e.job.kind == "trunk"]
job = manifest(sweep_jobs, trunk, micro_batch_rows={rows}, device="cpu")
print(run(job, threading.Event(), lambda e: None), file=sys.stderr)
print(next(l for l in open("/proc/self/status") if l.startswith("VmPeak")).split()[1])
"""
        import shutil

        root = sweep.sweep_jobs.sweep.workspace.root
        shutil.copytree(root, tmp_path / f"probe{rows}")
        done = subprocess.run(
            [sys.executable, "-c", code], env=sweep.environment, capture_output=True, text=True, timeout=300
        )
        assert "done" in done.stderr, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[0] > peaks[1] + 20_000, peaks
    return (2 * peaks[1] + 3 * peaks[0]) // 5


def with_fates(tmp_path: Path, **fates: str) -> dict[str, Any]:
    """Settings under which the first processes of a kind meet a fate (tests/launch/faults)."""
    folder = tmp_path / "faults"
    for name in ("taken", "dead"):
        (folder / name).mkdir(parents=True)
    for name, fate in fates.items():
        (folder / f"{name.replace('_', '-')}").write_text(fate)
    return {"environment.FAULTS": str(folder), "environment.PYTHONPATH": str(FAULTS)}


def test_a_python_error_is_labelled_and_not_repeated(on_slurm: Any, tmp_path: Path) -> None:
    sweep = on_slurm(with_fates(tmp_path, worker_0="error 1"), name="error", **SHORT)
    sweep.launch()
    trunk = trunk_of(sweep)
    until(sweep.quiet, why=sweep.story)
    [record] = sweep.records_of(trunk)
    assert record["why"] == "failed" and "a fault of the test" in record["error"]
    assert states(sweep)[trunk.job.id] == "failed"
    report = sweep.launch("--retry", "none")
    assert report["submitted"] == 0 and report["exhausted"] == [trunk.job.id]
    assert sweep.finish(launches=1) == 1
    assert sweep.same_as_undisturbed()
    assert [r["why"] for r in sweep.records_of(trunk)] == ["failed", "done"]


def test_a_job_that_fails_before_its_first_line(on_slurm: Any, tmp_path: Path) -> None:
    """The node is broken at first: requeued by its own script."""
    once = f"'[ -e {tmp_path}/seen ] || {{ touch {tmp_path}/seen; exit 1; }}'"
    sweep = on_slurm({"setup": f"[{once}]"}, name="stillborn", **SHORT)
    sweep.launch()
    assert sweep.finish(launches=0) == 0
    assert sweep.same_as_undisturbed()
    assert sweep.records_of(trunk_of(sweep))[0]["restart"] == 1


def test_a_node_where_nothing_can_begin(on_slurm: Any) -> None:
    """Each task that meets it goes elsewhere, and says where it failed."""
    broken = "'[ $SLURMD_NODENAME != node1 ]'"
    sweep = on_slurm({"setup": f"[{broken}]"}, name="broken-node", **SHORT)
    sweep.launch()
    assert sweep.finish(launches=0) == 0
    assert sweep.same_as_undisturbed()
    trunk = sweep.records_of(trunk_of(sweep))[0]
    assert trunk["restart"] == 1, sweep.story()
    [note] = json.loads(sweep.command("status", sweep.sweep_jobs.sweep.name, "--json").stdout)["notes"]
    assert note.startswith("node1: ")


def test_a_task_that_starts_before_its_checkpoint(on_slurm: Any) -> None:
    """As after a dependency that fails open: it looks, finds nothing to start, and ends."""
    sweep = on_slurm(name="open", **LONG)
    begun(sweep, 100)
    held = [task for task, (_, reason) in sweep.tasks().items() if "Held" in reason]
    sweep.ask("scontrol", "release", ",".join(held))
    assert sweep.finish(launches=0) == 0
    assert sweep.same_as_undisturbed()


def test_divergence_is_a_result(on_slurm: Any) -> None:
    """Labelled, not repeated, its branches' tasks taken back; `--retry diverged` trains it again."""
    wild = {"optimizer__lr": 1e4, "parametrization__name": "standard", "parametrization__zero_head": False}
    sweep = on_slurm(name="diverged", **wild, **SHORT)
    sweep.launch()
    assert sweep.finish(launches=0) == 0
    until(lambda: not sweep.tasks(), why=sweep.story)
    assert set(states(sweep).values()) == {"diverged"}
    assert sweep.same_as_undisturbed()
    assert sweep.launch()["submitted"] == 0
    report = sweep.launch("--retry", "diverged")
    assert report["submitted"] == 3
    assert sweep.finish(launches=0) == 0
    assert sweep.same_as_undisturbed()
    assert len(sweep.records_of(trunk_of(sweep))) == 2


def test_damaged_checkpoints(on_slurm: Any) -> None:
    """The newest with a flipped bit, the one before cut short."""
    sweep = on_slurm(name="damaged", **LONG)
    trunk = begun(sweep, 600)
    sweep.ask("scancel", *sweep.tasks())
    until(lambda: not sweep.tasks() and not attempts.newest(trunk.folder).alive(), why=sweep.story)
    *_, older, newest = [None, *checkpoints.steps(trunk.folder)]
    file = checkpoints.at(trunk.folder, newest).path / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    if older is not None:
        file = checkpoints.at(trunk.folder, older).path / "optimizer.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    assert sweep.finish(launches=1) == 1
    assert sweep.same_as_undisturbed()
    assert list(trunk.folder.checkpoints.glob("damaged-*"))


def test_a_full_disk(on_slurm: Any, workspace: Any, small: Path) -> None:
    """Full for a while in the middle of a trunk: its task waits, and goes on when there is room."""
    (workspace.root / "store").symlink_to(small)
    sweep = on_slurm({"execution.keep": "none"}, name="full", **LONG)
    begun(sweep)
    ballast = fill(small, 4096)
    logs = lambda: "".join(p.read_text() for p in sweep.records.folder.glob("arrays/*/*.out"))  # noqa: E731
    until(lambda: "disk is full" in logs(), why=sweep.story)
    ballast.unlink()
    assert sweep.finish(launches=0) == 0
    assert sweep.same_as_undisturbed()
