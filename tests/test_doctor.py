"""The doctor where there is no Slurm, and what it makes of what nodes report."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweepctl.launch import disk
from sweepctl.launch.doctor import Finding, clock_finding, gpu_finding, own_folder, team_finding
from sweepctl.launch.slurm.doctor import gpus_asked, minutes
from sweepctl.launch.slurm.node_check import judge
from sweepctl.resources import code_version
from sweepctl.spec.execution import Execution
from sweepctl.store.workspace import Workspace
from tests.launch.settings import resources, slurm

NODE: dict[str, Any] = {
    "torch": "2.9", "cuda": "12.8", "import_s": 2.0, "gpus": ["NVIDIA H100"], "gpu_error": None,
}  # fmt: skip
REPORT: dict[str, Any] = {
    **NODE,
    "host": "n1",
    "python": ".".join(map(str, sys.version_info[:3])),
    "executable": "/env/bin/python",
    "code": code_version(),
    "round_trip_s": 0.2,
    "disk": {"faults": [], "ahead_s": 0.0, "sync_s": 0.01, "free_bytes": 1e12},
    "missing": None,
    "commands_fail": None,
}
LAUNCHER = slurm()


def call(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sweepctl", "doctor", *arguments],
        capture_output=True, text=True, env={**os.environ, **variables},
    )  # fmt: skip


def bad(findings: Any) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings if finding.verdict != "ok"}


def test_without_slurm_one_line_says_so(tmp_path: Path) -> None:
    done = call(SWEEPCTL_HOME=str(tmp_path / "home"), PATH=str(tmp_path))
    assert done.returncode == 1 and done.stderr == ""
    [line] = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert "sbatch, squeue, scontrol, scancel not on the PATH. Run this on a login node" in line
    assert not (tmp_path / "home").exists()


def test_on_this_machine(tmp_path: Path) -> None:
    done = call("--on", "local", SWEEPCTL_HOME=str(tmp_path / "a" / "home"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch sees none: jobs train on the CPU" in done.stdout
    assert not (tmp_path / "a").exists()
    assert call("--wait-min", "0").returncode == 2


def test_a_workspace_with_something_in_it_stays(tmp_path: Path) -> None:
    (tmp_path / ".doctor" / "another").mkdir(parents=True)
    with own_folder(Workspace(tmp_path)) as folder:
        assert isinstance(folder, Path) and disk.try_out(folder / "login").faults == []
    assert [path.name for path in (tmp_path / ".doctor").iterdir()] == ["another"]


def test_a_good_node() -> None:
    assert bad(judge(REPORT, LAUNCHER, 1, [])) == {}


@pytest.mark.parametrize(
    ("change", "check", "advice"),
    [
        ({"code": "other"}, "code", "Install the same sweepctl there"),
        ({"missing": "ModuleNotFoundError: submitit"}, "torch", "Install sweepctl"),
        ({"gpus": []}, "GPUs", "check the driver"),
        ({"gpus": [], "cuda": None}, "GPUs", "built without CUDA"),
        ({"gpu_error": "RuntimeError: no kernel image"}, "GPUs", "Match torch"),
        ({"round_trip_s": None}, "shared files", "not /tmp"),
        ({"commands_fail": "scontrol not on the PATH"}, "node commands", "commands_on_nodes: false"),
        ({"disk": {**REPORT["disk"], "ahead_s": -400.0}}, "node clock", "NTP"),
        ({"disk": {**REPORT["disk"], "faults": ["O_EXCL"]}}, "node disk", "another file system"),
        ({"disk": {**REPORT["disk"], "free_bytes": 1e8}}, "node disk", "Make room"),
    ],
)
def test_a_node_with_one_fault(change: dict[str, Any], check: str, advice: str) -> None:
    faults = bad(judge(REPORT | change, LAUNCHER, 1, []))
    assert list(faults) == [check] and faults[check].verdict == "failed" and advice in faults[check].advice


def test_what_is_only_told() -> None:
    assert clock_finding(20.0, "clock", "here").verdict == "warning"
    more = NODE | {"gpus": ["NVIDIA H100"] * 8}
    assert gpu_finding(1, more, Execution()).verdict == "warning"
    assert gpu_finding(None, more, Execution()).verdict == "ok"
    assert gpu_finding(8, more, Execution(), processes=8).verdict == "ok"
    assert gpu_finding(8, NODE, Execution(), processes=8, bound=True).verdict == "ok"
    assert gpu_finding(0, NODE | {"gpus": []}, Execution(device="cuda")).verdict == "failed"
    assert gpu_finding(1, NODE | {"gpus": []}, Execution(device="cpu")).verdict == "warning"
    off = replace(LAUNCHER, commands_on_nodes=False)
    assert bad(judge(REPORT | {"commands_fail": "no"}, off, 1, [])) == {}


def test_slurms_ways_of_writing() -> None:
    assert [minutes(text) for text in ("UNLIMITED", "00:30:00", "1-02:00:00")] == [None, 30, 1560]
    assert gpus_asked(resources(gpus_per_node=4)) == (None, 4)
    assert gpus_asked(resources(gres="nvme:1,gpu:h100:2")) == ("h100", 2)
    assert gpus_asked(resources(gres="gpu")) == (None, 1)
    assert gpus_asked(resources()) == (None, 0)


@pytest.mark.parametrize(
    ("mode", "umask", "verdict", "says"),
    [
        (0o755, 0o022, "ok", "only you"),
        (0o2775, 0o002, "ok", "go on with what you write"),
        (0o775, 0o002, "warning", "chmod g+s"),
        (0o2775, 0o022, "warning", "umask 002"),
        (0o2777, 0o002, "warning", "chmod o-w"),
    ],
)
def test_what_a_shared_workspace_lacks_is_told(
    tmp_path: Path, mode: int, umask: int, verdict: str, says: str
) -> None:
    workspace = Workspace(tmp_path / "sweeps")
    workspace.root.mkdir()
    workspace.root.chmod(mode)
    before = os.umask(umask)
    try:
        with own_folder(workspace) as folder:
            assert isinstance(folder, Path)
            finding = team_finding(workspace, folder)
    finally:
        os.umask(before)
    assert finding.verdict == verdict and says in finding.text
