"""`launch --on slurm`: arrays, held branches, one task a job whoever asks how often, crash-safe
submission."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweepctl.launch.slurm import commands
from sweepctl.launch.slurm.records import Array, author, new_token
from sweepctl.store import attempts, checkpoints
from tests.conftest import Planner, only
from tests.launch.settings import resources

from .cluster import until, waits_for

GRID = {"grid": {"axes": {"seed.init": [0, 1]}}}


def test_a_sweep_runs_to_its_end_by_itself(on_slurm: Any) -> None:
    sweep = on_slurm(name="plain", **GRID)
    report = sweep.launch()
    assert report["submitted"] == len(sweep.sweep_jobs.by_id)
    held = [array for array in report["arrays"] if array["held"]]
    assert len(report["arrays"]) == 2 and len(held) == 1
    assert set(held[0]["jobs"]) == {e.job.id for e in only(sweep.sweep_jobs, "branch")}
    assert sweep.finish(launches=0) == 0
    assert sweep.same_as_undisturbed()
    for planned_job in sweep.sweep_jobs.by_id.values():
        [record] = sweep.records_of(planned_job)
        assert record["scheduler_id"] and record["cluster"] == "slurmbox" and record["launcher"] == "slurm"
    again = sweep.launch()
    assert again["submitted"] == again["already_queued"] == 0


def test_a_branch_starts_while_its_trunk_trains_on(on_slurm: Any) -> None:
    sweep = on_slurm(name="early", ladder__depths=[1], budget__tokens=[12_800, 6_400_000])
    sweep.launch()
    [trunk] = only(sweep.sweep_jobs, "trunk")
    early = min(only(sweep.sweep_jobs, "branch"), key=lambda e: e.job.end)
    until(early.folder.has_result, why=sweep.story)
    assert not sweep.finished() and attempts.newest(trunk.folder).alive()
    sweep.ask("scancel", *sweep.tasks())


def test_two_launches_at_once_submit_each_job_once(on_slurm: Any) -> None:
    sweep = on_slurm({"sbatch.begin": "now+1hour"}, name="twice", **GRID)
    launches = [
        subprocess.Popen(
            [sys.executable, "-m", "sweepctl", *sweep.launch_command()],
            env=sweep.environment, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    reports = [json.loads(process.communicate(timeout=120)[0]) for process in launches]
    assert sum(report["submitted"] for report in reports) == len(sweep.tasks()) == len(sweep.sweep_jobs.by_id)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_launch_killed_around_sbatch_leaves_no_orphan(on_slurm: Any, tmp_path: Path, moment: str) -> None:
    """A `sbatch` on the PATH that kills who called it, before or after the real one has answered."""
    sweep = on_slurm({"sbatch.begin": "now+1hour"}, name=f"orphan-{moment}", **GRID)
    shim = tmp_path / "bin" / "sbatch"
    shim.parent.mkdir()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True).stdout.strip()
    lines = {"before": ["kill -9 $PPID"], "after": [f'{real} "$@"', "kill -9 $PPID"]}[moment]
    shim.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    shim.chmod(0o755)
    died = sweep.command(*sweep.launch_command(), PATH=f"{shim.parent}:{sweep.environment['PATH']}")
    assert died.returncode == -signal.SIGKILL
    submitted = len(sweep.tasks())
    assert (submitted > 0) == (moment == "after")
    report = sweep.launch()
    assert report["already_queued"] == submitted
    assert len(sweep.tasks()) == len(sweep.sweep_jobs.by_id)
    assert sweep.launch()["submitted"] == 0


def test_an_array_id_that_was_given_out_anew_is_not_ours(on_slurm: Any, tmp_path: Path) -> None:
    """As after a cluster's reset: the record names an id that now belongs to somebody else."""
    sweep = on_slurm({"sbatch.begin": "now+1hour"}, name="reset")
    other = sweep.ask(
        "sbatch", "--parsable", "--hold", "--array=0-3", f"--output={tmp_path}/x", "--wrap", "true"
    )
    jobs = tuple(sweep.sweep_jobs.by_id)
    array = Array(new_token(), "x", "reset.gone", "slurmbox", jobs, resources(), by=author())
    sweep.records.intend(array)
    sweep.records.write_id(array.token, other)
    report = sweep.launch()
    assert report["submitted"] == len(jobs) and report["cancelled"] == []
    sweep.ask("scancel", other)


def test_a_dry_run_shows_the_scripts_and_does_nothing(on_slurm: Any) -> None:
    sweep = on_slurm({"environment.WORD": '"a $ `id` b"'}, name="dry")
    before = sorted(path for path in sweep.sweep_jobs.sweep.folder.rglob("*") if "verified" not in path.name)
    arrays = sweep.launch("--dry-run")["would_submit"]
    assert [len(array["jobs"]) for array in arrays] == [2, 4]
    assert "#SBATCH --array=0-1%2" in arrays[0]["script"] and "#SBATCH --hold" in arrays[1]["script"]
    assert "#SBATCH --requeue" in arrays[0]["script"] and "#SBATCH --time=10" in arrays[0]["script"]
    assert "a $ `id` b" not in str(arrays) and "export WORD=" in arrays[0]["script"]
    assert sorted(path for path in sweep.sweep_jobs.sweep.folder.rglob("*")) == before
    assert not sweep.tasks()
    text = sweep.command(*[word for word in sweep.launch_command("--dry-run") if word != "--json"]).stdout
    assert "#SBATCH --hold" in text and "Nothing was submitted" in text


def test_resources_by_rung_make_arrays_of_their_own(on_slurm: Any) -> None:
    sweep = on_slurm({"sbatch.begin": "now+1hour"}, name="classes")
    rungs = [rung.name for rung in sweep.sweep_jobs.plans["all"].rungs]
    report = sweep.launch(f"rungs.{rungs[0]}.time_min=3", f"rungs.{rungs[0]}.cpus_per_task=2")
    assert {(a["resources"]["time_min"], a["held"]) for a in report["arrays"]} == {
        (3, False), (3, True), (10, False), (10, True)
    }  # fmt: skip
    limits = set(sweep.ask("squeue", "-h", "-r", "-o", "%l").split())
    assert limits == {"3:00", "10:00"}


def test_nothing_of_a_surrounding_job_reaches_a_task(on_slurm: Any, tmp_path: Path) -> None:
    sweep = on_slurm({"setup": f"['env > {tmp_path}/env']"}, name="clean", ladder__depths=[1])
    sweep.launch(SLURM_MEM_PER_CPU="7", SLURM_NTASKS="99", WORLD_SIZE="8", MASTER_ADDR="elsewhere", RANK="3")
    sweep.finish(launches=0)
    variables = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    assert not {"WORLD_SIZE", "MASTER_ADDR", "RANK"} & set(variables)
    assert variables["SLURM_NTASKS"] == "1" and variables.get("SLURM_MEM_PER_CPU") != "7"
    assert variables["SLURM_CONF"] == str(sweep.box.conf)


def test_what_slurm_refuses_is_one_sentence(on_slurm: Any) -> None:
    sweep = on_slurm(name="refused")
    done = sweep.command(*sweep.launch_command("resources.partition=nosuch"))
    assert done.returncode == 2 and "nvalid partition" in done.stderr and len(done.stderr.splitlines()) == 1
    for override, word in (
        ("resources.time_min=0", "time_min"),
        ("sbatch.array=0-9", "array"),
        ('resources.partition="a\nb"', "one line"),
        ("environment.1A=x", "environment"),
        ("save_ahead_s=600", "save_ahead_s"),
    ):
        done = sweep.command(*sweep.launch_command(override))
        assert done.returncode == 2 and word in done.stderr, (override, done.stderr)
        assert len(done.stderr.splitlines()) == 1
    assert not sweep.tasks()


def test_what_is_over_the_limit_is_submitted_by_tasks_that_end(on_slurm: Any) -> None:
    sweep = on_slurm({"max_submitted": 3}, name="limited", **GRID)
    report = sweep.launch()
    assert report["submitted"] == 3 and report["unsubmitted"] == len(sweep.sweep_jobs.by_id) - 3
    assert "max_submitted" in report["why"]
    assert sweep.finish(launches=0) == 0
    assert sweep.same_as_undisturbed()


def test_a_cluster_without_commands_on_its_nodes(on_slurm: Any, tmp_path: Path) -> None:
    """scontrol and the others are not there for tasks: they wait for their checkpoints instead."""
    for name in ("scontrol", "squeue", "sbatch", "scancel"):
        shim = tmp_path / "bin" / name
        shim.parent.mkdir(exist_ok=True)
        shim.write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/called\nexit 1\n")
        shim.chmod(0o755)
    for wait_min in (0, 2):
        sweep = on_slurm(
            {"commands_on_nodes": "false", "wait_min": wait_min, "setup": f"['PATH={tmp_path}/bin:$PATH']"},
            name=f"plain-{wait_min}", seed__init=wait_min,
        )  # fmt: skip
        sweep.launch()
        assert sweep.finish(launches=1) == 0
        assert sweep.same_as_undisturbed()
    assert not (tmp_path / "called").exists()


def test_a_changed_plan_leaves_alone_what_it_does_not_want(
    on_slurm: Any, planned: Planner, tmp_path: Path
) -> None:
    """Tasks that wait for its jobs end without them; planned again as it was, they are trained as ordered."""
    sweep = on_slurm(waits_for(tmp_path / "open"), name="frozen", ladder__depths=[1])
    sweep.launch("resources.time_min=7")
    later = planned(name="frozen", ladder__depths=[1], optimizer__lr=0.01)
    (tmp_path / "open").touch()
    until(sweep.quiet, why=sweep.story)
    jobs = [*sweep.sweep_jobs.by_id.values(), *later.by_id.values()]
    assert not any(attempts.every(planned_job.folder) for planned_job in jobs)
    planned(name="frozen", ladder__depths=[1])
    sweep.launch("resources.time_min=7")
    sweep.finish(launches=0)
    assert not any(checkpoints.steps(planned_job.folder) for planned_job in later.by_id.values())


def test_ids_and_names_are_asked_for_not_users(on_slurm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = on_slurm({"sbatch.begin": "now+1hour"}, name="team")
    report = sweep.launch()
    monkeypatch.setenv("SLURM_CONF", str(sweep.box.conf))
    ids = {array["id"]: "team.x" for array in report["arrays"]}
    assert commands.squeue(ids, ids) == {}  # another's name: not ours
