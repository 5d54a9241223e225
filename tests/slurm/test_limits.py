"""What a cluster does not take at once: limits of arrays, of all jobs, of accounts, and the refusal
itself."""

from __future__ import annotations

import getpass
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweepctl.launch.slurm import commands
from sweepctl.store import attempts
from tests.conftest import Planner, Undisturbed, only

from .cluster import OnSlurm, until, waits_for
from .conftest import BOX

GRID = {"grid": {"axes": {"seed.init": [0, 1, 2]}}}
"""Three points of two rungs: 6 trunks, 12 branches."""


@pytest.fixture(scope="module")
def small_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    settings = "MaxArraySize=4\nMaxJobCount=14"
    box = BOX.Box(tmp_path_factory.mktemp("limits") / "box", nodes=1, settings=settings)
    box.up()
    yield box
    box.down()


def on(box: Any, planned: Planner, undisturbed: Undisturbed, **settings: Any) -> OnSlurm:
    return OnSlurm(box, planned(name="limits", **GRID), undisturbed, **settings)


def test_arrays_are_split_and_the_rest_waits(
    small_box: Any, planned: Planner, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    sweep = on(small_box, planned, undisturbed, **waits_for(tmp_path / "open"))
    report = sweep.launch()
    assert all(len(array["jobs"]) <= 4 for array in report["arrays"])
    assert (report["submitted"], report["unsubmitted"]) == (13, 5)
    assert "MaxJobCount=14" in report["why"]
    shown = sweep.command("status", "limits").stdout
    assert f"{report['unsubmitted']} jobs without a task of their own (MaxJobCount=14)" in shown
    (tmp_path / "open").touch()
    assert sweep.finish(launches=1) <= 1
    assert sweep.same_as_undisturbed()


def test_what_a_qos_refuses_is_halved_until_it_is_taken(
    accounting_box: Any, planned: Planner, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    sweep = on(accounting_box, planned, undisturbed, resources__qos="small", **waits_for(tmp_path / "open"))
    report = sweep.launch()
    assert 0 < report["submitted"] <= 5 and report["unsubmitted"] == 18 - report["submitted"]
    assert "QOSMaxSubmitJobPerUserLimit" in report["why"]
    (tmp_path / "open").touch()
    assert sweep.finish(launches=0) == 0
    assert sweep.same_as_undisturbed()


def test_an_accounts_limit_is_read_beforehand(
    accounting_box: Any, planned: Planner, undisturbed: Undisturbed, monkeypatch: Any
) -> None:
    sweep = on(accounting_box, planned, undisturbed)
    limit = ("sacctmgr", "-i", "modify", "user", getpass.getuser(), "set")
    sweep.ask(*limit, "MaxSubmitJobs=7")
    monkeypatch.setenv("SLURM_CONF", str(accounting_box.conf))
    until(lambda: commands.in_queue("--me") == 0, why=sweep.story)  # tasks of the test before may be ending
    try:
        assert commands.limits(None, 18).room == 7
        report = sweep.launch()
        assert report["submitted"] == 7 and report["why"] == "MaxSubmitJobs=7"
        assert sweep.finish(launches=0) == 0
    finally:
        sweep.ask(*limit, "MaxSubmitJobs=-1")


def test_a_killed_task_is_explained_by_the_accounting(
    accounting_box: Any, planned: Planner, undisturbed: Undisturbed
) -> None:
    """Files, then squeue, then sacct: what a killed task said of itself is Slurm's word."""
    sweep_jobs = planned(name="ended", ladder__depths=[1], budget__tokens=[640_000])
    sweep = OnSlurm(accounting_box, sweep_jobs, undisturbed, **{"sbatch.no-requeue": "true"})
    sweep.launch()
    [run] = only(sweep.sweep_jobs, "trunk")
    until(lambda: sweep.reached(run, 100), why=sweep.story)
    for pid in (*sweep.task_pids(attempts.newest(run.folder).record["scheduler_id"]),
                int(attempts.newest(run.folder).record["pid"])):  # fmt: skip
        os.kill(pid, signal.SIGKILL)

    def noted() -> bool:
        status = json.loads(sweep.command("status", "ended", "--json").stdout)
        notes = [job["note"] or "" for job in status["jobs"] if job["id"] == run.job.id]
        return any("ended as FAILED" in note for note in notes)

    until(noted, 60, sweep.story)
    sweep.ask("scancel", *sweep.tasks())
