"""Scripts for any scheduler, run here by plain bash: tasks side by side, killed, and run again."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from sweepctl.collect.tables import collect
from sweepctl.errors import InvalidValue, RequestError
from sweepctl.launch.backends.batch import UNFINISHED, BatchLauncher
from sweepctl.launch.launcher import LaunchRequest, launchers_of, read_launcher
from sweepctl.launch.retry import choose
from sweepctl.spec.compose import compose_launcher
from sweepctl.store import attempts
from sweepctl.store.sweep_jobs import SweepJobs
from tests.conftest import Planner, Undisturbed, only, tree
from tests.launch.test_local import LONG

SETTINGS = ["execution.log_every_steps=50", "execution.device=cpu"]


def sweepctl(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "sweepctl", *arguments], capture_output=True, text=True, check=True
    ).stdout


def launch(name: str, *settings: str) -> dict[str, Any]:
    """Launch by the command; what it says."""
    output = sweepctl("launch", name, "--on", "batch", "--json", *SETTINGS, *settings)
    outcome: dict[str, Any] = json.loads(output)
    return outcome


def start(script: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A task, as a scheduler starts it."""
    return subprocess.Popen(
        ["bash", script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **variables},
    )  # fmt: skip


def ended(task: subprocess.Popen[str], code: int = 0) -> str:
    """What a task printed, which ends so."""
    out, _ = task.communicate(timeout=200)
    assert task.returncode == code, out
    return out


def trained(sweep_jobs: SweepJobs) -> list[int]:
    """How often each job was trained."""
    every = (attempts.every(planned_job.folder) for planned_job in sweep_jobs.by_id.values())
    return [sum(bool(attempt.record.get("trained_tokens")) for attempt in of_job) for of_job in every]


def rungs_of(sweep_jobs: SweepJobs, jobs: Iterable[str]) -> set[str]:
    planned_jobs = (sweep_jobs.by_id[job] for job in jobs)
    return {planned_job.plan.rung_of(planned_job.job).name for planned_job in planned_jobs}


def in_training(sweep_jobs: SweepJobs) -> int:
    """Wait until the first trunk is past its fiftieth step; that attempt's process."""
    [trunk] = only(sweep_jobs, "trunk")
    while True:
        newest = attempts.newest(trunk.folder)
        if newest is not None and newest.alive() and newest.progress().get("step", 0) > 50:
            return int(newest.record["pid"])
        select.select([], [], [], 0.05)


def test_two_tasks_side_by_side_train_everything_once(planned: Planner, undisturbed: Undisturbed) -> None:
    sweep_jobs = planned(name="pair", budget__tokens=[6_400, 12_800])
    [array] = launch("pair")["arrays"]
    assert sorted(array["jobs"]) == sorted(sweep_jobs.by_id)
    assert array["submit"][0] == f"PBS:          qsub -J 0-1 {array['id']}"
    tasks = [start(array["id"], PBS_ARRAY_INDEX="0"), start(array["id"], "1")]
    for task in tasks:
        assert "nothing left for this task" in ended(task)
    assert trained(sweep_jobs) == [1] * len(sweep_jobs.by_id)
    collect(sweep_jobs)
    assert (sweep_jobs.sweep.folder / "runs.parquet").read_bytes() == undisturbed.runs(sweep_jobs)
    names = [path.name for path in sorted((Path(array["id"]).parent / "tasks").iterdir())]
    assert names == ["0", "1"]
    before = tree(sweep_jobs.sweep.workspace.root / "store")
    assert launch("pair")["arrays"] == []
    ended(start(array["id"]))
    assert tree(sweep_jobs.sweep.workspace.root / "store") == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_task_that_is_killed_is_run_again_and_goes_on(
    planned: Planner, undisturbed: Undisturbed, number: signal.Signals
) -> None:
    sweep_jobs = planned(name="killed", ladder__depths=[1], **LONG)
    [array] = launch("killed", "execution.checkpoint_every_s=0.2")["arrays"]
    task = start(array["id"], "7")
    worker = in_training(sweep_jobs)
    assert '"state": "running"' in sweepctl("status", "killed", "--json")
    [backend] = launchers_of(sweep_jobs.sweep)
    [trunk] = only(sweep_jobs, "trunk")
    [running] = backend.tasks(sweep_jobs.sweep)[trunk.job.id]
    assert backend is BatchLauncher and running.name == "7" and running.alive
    descriptor = os.pidfd_open(worker)
    task.send_signal(number)
    out = ended(task, UNFINISHED if number is signal.SIGTERM else -number)
    assert number is signal.SIGKILL or "saved, with work left" in out
    assert select.select([descriptor], [], [], 60)[0]
    os.close(descriptor)
    assert not any(task.alive for tasks in backend.tasks(sweep_jobs.sweep).values() for task in tasks)
    assert launch("killed", "execution.checkpoint_every_s=0.2")["arrays"] == [array]
    ended(start(array["id"], "7"))
    first, second = attempts.every(trunk.folder)
    assert second.record["start_step"] == first.record["end_step"] > 50
    collect(sweep_jobs)
    assert (sweep_jobs.sweep.folder / "runs.parquet").read_bytes() == undisturbed.runs(sweep_jobs)


def test_it_saves_ahead_of_the_time_limit(planned: Planner) -> None:
    sweep_jobs = planned(name="limited", ladder__depths=[1], budget__tokens=[100_000_000])  # minutes, not 5 s
    [array] = launch("limited", "time_min=1", "save_ahead_s=55")["arrays"]
    assert "saved, with work left" in ended(start(array["id"]), UNFINISHED)
    for of_job in (attempts.every(planned_job.folder) for planned_job in sweep_jobs.by_id.values()):
        assert all(attempt.ended and attempt.record["why"] in ("done", "stopped") for attempt in of_job)


def test_a_cancel_is_seen(planned: Planner) -> None:
    sweep_jobs = planned(name="stopped", ladder__depths=[1], **LONG)
    [array] = launch("stopped")["arrays"]
    task = start(array["id"])
    in_training(sweep_jobs)
    sweepctl("cancel", "stopped", "--yes")
    assert "cancelled" in ended(task)
    assert not any(planned_job.folder.has_result() for planned_job in sweep_jobs.by_id.values())


def test_rungs_that_differ_have_a_script_each(planned: Planner) -> None:
    sweep_jobs = planned(name="classes")
    settings = ["header=['#PBS -l select=1']", "rungs.16x2.header=['#PBS -l select=2']", "rungs.7x*.tasks=2"]
    launcher = read_launcher("batch", compose_launcher("batch", settings))
    request = LaunchRequest(sweep_jobs, [], choose(sweep_jobs, ["none"]))
    small, large = launcher.rehearse(request).submissions
    assert "\n#PBS -l select=1\n" in small.script and "\n#PBS -l select=2\n" in large.script
    assert [rungs_of(sweep_jobs, script.jobs) for script in (small, large)] == [{"8x1"}, {"16x2"}]
    assert not (sweep_jobs.sweep.folder / "batch").exists()
    outcome = launcher.launch(request, None)
    assert [script.id for script in outcome.submissions] == [small.id, large.id]
    assert outcome.idle_patterns == ["7x*"] and Path(small.id).read_text() == small.script
    ended(start(small.id))
    assert rungs_of(sweep_jobs, [planned_job.job.id for planned_job in sweep_jobs.unfinished()]) == {"16x2"}


@pytest.mark.parametrize(
    ("variables", "argument", "number"),
    [
        ({"LSB_JOBINDEX": "3"}, "9", "3"),
        ({"SGE_TASK_ID": "undefined", "JOB_COMPLETION_INDEX": "4"}, "9", "4"),
        ({"PBS_ARRAY_INDEX": "1", "SLURM_ARRAY_TASK_ID": "2"}, "9", "2"),
        ({}, "9", "9"),
        ({}, "", ""),
    ],
)
def test_a_tasks_number(planned: Planner, variables: dict[str, str], argument: str, number: str) -> None:
    sweep_jobs = planned(name="number")
    launcher = read_launcher("batch", compose_launcher("batch", ["python=echo"]))
    request = LaunchRequest(sweep_jobs, [], choose(sweep_jobs, ["none"]))
    script = launcher.launch(request, None).submissions[0].id
    words = ended(start(script, *([argument] if argument else []), **variables)).split()
    assert words[-1] == (number or str(Path(script).parent))


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("header=[select]", "header"),
        ("time_min=0", "time_min"),
        ("time_min=1", "save_ahead_s"),
        ("rungs.8x1.time_min=1", "save_ahead_s"),
        ("rungs.8x1.nodes=1", "nodes"),
        ("tasks=0", "tasks"),
        ("index=['a b']", "index"),
        ("wait_min=-1", "wait_min"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, key: str) -> None:
    with pytest.raises((InvalidValue, RequestError), match=key):
        read_launcher("batch", compose_launcher("batch", [setting]))
