"""The doctor on a real Slurm: what is well, what is not, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .test_box import ask

NO_GPU = ("resources.gpus_per_node=null", "resources.mem_gb=4", "resources.cpus_per_task=1")
ROOT = Path(__file__).parent.parent.parent


def environment(box: Any, home: Path) -> dict[str, str]:
    return {**box.environment(), "SWEEPCTL_HOME": str(home), "PYTHONPATH": str(ROOT)}


def doctor(box: Any, home: Path, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit code, and check -> its finding."""
    done = subprocess.run(
        [sys.executable, "-m", "sweepctl", "doctor", "--json", *NO_GPU, *arguments],
        env=environment(box, home), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stderr == "", done.stderr
    findings = json.loads(done.stdout)["findings"]
    assert not home.exists()
    assert ask(box, "squeue", "-h") == ""
    return done.returncode, {finding["check"]: finding for finding in findings}


def failed(findings: dict[str, dict[str, str]]) -> list[str]:
    return [name for name, finding in findings.items() if finding["verdict"] == "failed"]


def test_all_is_well_on_two_nodes(box: Any, tmp_path: Path) -> None:
    code, findings = doctor(box, tmp_path / "home", "resources.nodes=2", "resources.tasks_per_node=2")
    assert code == 0, findings
    assert findings["controller"]["told"].startswith("slurmbox answers, Slurm ")
    assert findings["sbatch"]["told"].startswith("Slurm would take it: to start at ")
    assert "node1, node2" in findings["job"]["told"]
    for check in ("code", "torch", "GPUs", "node disk", "shared files", "node clock", "node commands"):
        assert findings[check]["verdict"] == "ok", findings[check]
    assert findings["ending"]["verdict"] == "warning" and "5 s from SIGTERM" in findings["ending"]["told"]


def test_what_it_prints(box: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sweepctl", "doctor", "--no-job", *NO_GPU, "resources.partition=h100"],
        env=environment(box, tmp_path / "home"), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    wrong = [line for line in done.stdout.splitlines() if "h100" in line]
    assert wrong == [
        "FAILED   partition      there is no partition h100. Set resources.partition to gpu or preempt."
    ]
    assert done.stdout.splitlines()[-1].startswith("1 check FAILED: partition")


def test_time_above_the_partitions_limit(box: Any, tmp_path: Path) -> None:
    ask(box, "scontrol", "update", "partitionname=preempt", "maxtime=30")
    try:
        code, findings = doctor(
            box, tmp_path / "home", "resources.partition=preempt", "resources.time_min=40"
        )
    finally:
        ask(box, "scontrol", "update", "partitionname=preempt", "maxtime=unlimited")
    assert code == 1 and failed(findings) == ["partition"] and "sbatch" not in findings
    assert findings["partition"]["told"] == "time_min is 40, preempt allows 30 min"
    assert findings["partition"]["advice"].startswith("Set time_min to at most 30")
    assert findings["job"]["verdict"] == "skipped"


@pytest.mark.parametrize(
    ("override", "check", "says"),
    [
        ("rungs.d2.cpus_per_task=99", "partition", "d2: 99 CPUs a node, the nodes of gpu have at most 16"),
        ("rungs.d2.gres=gpu:h100:1", "partition", "d2: no node of gpu has a h100 GPU"),
        ("sbatch.reservation=none", "sbatch", "Requested reservation is invalid"),
    ],
)
def test_more_than_there_is(box: Any, tmp_path: Path, override: str, check: str, says: str) -> None:
    code, findings = doctor(box, tmp_path / "home", "--no-job", override)
    assert code == 1 and failed(findings) == [check]
    assert says in findings[check]["told"] and findings[check]["advice"]


def test_a_node_without_slurms_commands_and_gpus(box: Any, tmp_path: Path) -> None:
    """The box's GPUs are names that torch does not see."""
    only = tmp_path / "bin"
    only.mkdir()
    srun = ask(box, "sh", "-c", "command -v srun")
    (only / "srun").symlink_to(srun)
    setup = f"setup=['export PATH={only}']"
    code, findings = doctor(box, tmp_path / "home", setup, "resources.gpus_per_node=2")
    assert code == 1 and failed(findings) == ["GPUs", "node commands"]
    assert findings["node commands"]["advice"] == "Set commands_on_nodes: false."
    assert findings["GPUs"]["told"].startswith("torch sees 0 of 2")


def test_a_workspace_that_cannot_be_written(box: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, findings = doctor(box, tmp_path / "file" / "home")
    assert code == 1 and failed(findings) == ["workspace"]
    assert "Not a directory" in findings["workspace"]["told"] and findings["job"]["verdict"] == "skipped"


def test_another_python(box: Any, tmp_path: Path) -> None:
    """One that is not there, and one without torch."""
    code, findings = doctor(box, tmp_path / "home", "python=/opt/none/python")
    assert code == 1 and failed(findings) == ["job"]
    job = findings["job"]
    assert "/opt/none/python: No such file" in job["told"] and "`python`" in job["advice"]
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    code, findings = doctor(box, tmp_path / "home", f"python={bare}")
    assert code == 1 and failed(findings) == ["torch"]
    assert "No module named" in findings["torch"]["told"]


def test_a_job_that_does_not_start_is_cancelled(box: Any, tmp_path: Path) -> None:
    code, findings = doctor(box, tmp_path / "home", "sbatch.begin=now+1hour", "--wait-min=0.05")
    assert code == 0 and findings["job"]["verdict"] == "warning"
    assert "(BeginTime) and is cancelled" in findings["job"]["told"]


def test_ctrl_c_leaves_nothing(box: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = subprocess.Popen(
        [sys.executable, "-m", "sweepctl", "doctor", *NO_GPU, "sbatch.begin=now+1hour"],
        env=environment(box, home), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert any(b"... job" in line for line in process.stdout)  # says that it waits for its job
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not home.exists() and ask(box, "squeue", "-h") == ""
