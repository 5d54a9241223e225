"""SBATCH_ variables of a login shell count, and those of a surrounding job do not."""

from __future__ import annotations

import pytest

from sweepctl.launch.slurm import commands
from sweepctl.launch.slurm.doctor import shell_finding
from sweepctl.launch.slurm.records import Records
from sweepctl.launch.slurm.shell import read_shell
from tests.conftest import Planner

from .settings import slurm
from .slurm.cluster import stand_in
from .slurm.conftest import launch

SHELL = {
    "SBATCH_ACCOUNT": "team",
    "SBATCH_QOS": "long",
    "SBATCH_RESERVATION": "scaling",
    "SBATCH_EXCLUSIVE": "",
}


def test_a_shell_says_what_the_file_leaves_open() -> None:
    shell = read_shell(slurm(resources={"qos": "short"}, sbatch={"nice": 3}), SHELL)
    assert (shell.settings.resources.account, shell.settings.resources.qos) == ("team", "short")
    assert shell.settings.sbatch == {"nice": 3, "reservation": "scaling", "exclusive": True}
    assert shell.overruled == ("SBATCH_QOS=long",) and not shell.unused
    finding = shell_finding(shell)
    assert finding.verdict == "ok" and "SBATCH_ACCOUNT=team" in finding.text and "QOS=long" in finding.text


def test_inside_a_job_they_are_the_jobs() -> None:
    settings = slurm()
    assert read_shell(settings, {**SHELL, "SLURM_JOB_ID": "7"}).settings == settings


def test_a_token_is_named_and_not_shown() -> None:
    finding = shell_finding(read_shell(slurm(), {"SLURM_JWT": "eyJhbGc"}))
    assert "SLURM_JWT" in finding.text and "eyJ" not in finding.text


def test_what_is_not_used_is_told() -> None:
    finding = shell_finding(read_shell(slurm(), {"SBATCH_TIMELIMIT": "10"}))
    assert finding.verdict == "warning" and "SBATCH_TIMELIMIT" in finding.text


def test_tasks_submit_with_what_the_shell_of_the_launch_said(
    planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = stand_in(monkeypatch)
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    sweep_jobs = planned(name="shell", ladder__depths=[1])
    launch(sweep_jobs, "max_submitted=1")
    for name in SHELL:
        monkeypatch.delenv(name)
    order = Records(sweep_jobs.sweep).newest_order()
    assert order is not None and order.settings.resources.account == "team"
    cluster.run(cluster.waiting()[0])
    assert all(
        "--account=team\n" in script and "--reservation=scaling\n" in script for script in cluster.scripts
    )


@pytest.mark.parametrize(
    ("variables", "clusters"),
    [
        ({"SBATCH_CLUSTERS": "a"}, "a"),
        ({"SLURM_CLUSTERS": "b"}, "b"),
        ({"SBATCH_CLUSTERS": "a", "SLURM_JOB_ID": "7"}, None),
        ({}, None),
    ],
)
def test_every_command_asks_the_cluster_that_is_submitted_to(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], clusters: str | None
) -> None:
    for name in ("SBATCH_CLUSTERS", "SLURM_CLUSTERS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**variables, "SLURM_JWT": "t", "SBATCH_QOS": "q", "SQUEUE_FORMAT": "%x"}.items():
        monkeypatch.setenv(name, value)
    clean = commands.clean_environment()
    assert clean.get("SLURM_CLUSTERS") == clusters and clean["SLURM_JWT"] == "t"
    assert not {"SBATCH_QOS", "SQUEUE_FORMAT", "SBATCH_CLUSTERS", "SLURM_JOB_ID"} & set(clean)


def test_lines_that_name_a_cluster_are_no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    table = "CLUSTER: a\n7_0|RUNNING|None|x.t\n7_1|PENDING|Priority|x.t\n"
    monkeypatch.setattr(commands, "ask", lambda *command, **how: table)
    assert set(commands.squeue(["7"], {"7": "x.t"})) == {"7_0", "7_1"} and commands.in_queue() == 2
