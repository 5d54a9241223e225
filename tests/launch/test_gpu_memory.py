"""`gpu_memory` of a launcher: what plan and doctor say of rungs that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sweepctl.cli import app
from sweepctl.errors import InvalidValue
from sweepctl.launch.gpu_memory import memory_findings
from sweepctl.launch.launcher import read_launcher
from sweepctl.store.workspace import Workspace
from tests.conftest import Planner
from tests.launch.settings import slurm


@pytest.mark.parametrize("kind", ["local", "slurm", "batch"])
@pytest.mark.parametrize("value", [0, -1, "a card of tomorrow", "0"])
def test_what_is_no_memory_is_refused(kind: str, value: Any) -> None:
    with pytest.raises(InvalidValue, match=r"gpu_memory.*A100 80GB"):
        read_launcher(kind, {"kind": kind, "gpu_memory": value})
    for right in (None, 80, 23.5, "A100 80GB", "NVIDIA H100 NVL"):
        assert read_launcher(kind, {"kind": kind, "gpu_memory": right}).settings.gpu_memory == right


def test_a_rung_has_its_own_execution_and_gpus(planned: Planner, workspace: Workspace) -> None:
    name = planned(name="one", ladder__depths=[1, 2]).plans["all"].rungs[1].name
    rungs: dict[str, Any] = {name: {"execution": {"per_gpu": 4}}}
    for kind in ("local", "slurm"):
        verdicts = [
            [f.verdict for f in memory_findings(read_launcher(kind, {"kind": kind, **own}), workspace)]
            for own in ({}, {"gpu_memory": 4}, {"gpu_memory": 4, "rungs": rungs})
        ]
        assert verdicts == [[], ["ok"], ["warning"]]
    assert slurm(gpu_memory=4).of_rung(name).gpu_memory == 4


def test_a_job_has_more_gpus_on_a_cluster_only() -> None:
    most = {kind: read_launcher(kind, {"kind": kind}).most_devices() for kind in ("local", "batch", "slurm")}
    assert most["local"] == most["batch"] == 1 < most["slurm"]


def test_doctor_names_sweep_rung_and_remedy(planned: Planner, workspace: Workspace) -> None:
    planned(name="one", ladder__depths=[1])
    launcher = read_launcher("local", {"kind": "local", "gpu_memory": 4, "execution": {"per_gpu": 4}})
    [finding] = memory_findings(launcher, workspace)
    assert finding.check == "memory" and finding.verdict == "warning"
    assert finding.text.startswith("sweep one: rung ") and "there are 1 GB" in finding.text
    assert finding.advice == "It fits with execution.per_gpu=1."


def test_plan_says_what_does_not_fit_where_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPCTL_HOME", str(tmp_path / "home"))
    (tmp_path / "card.yaml").write_text("kind: local\ngpu_memory: 0.6\n")
    study = [
        "plan",
        "data=synthetic",
        "data.options.train_tokens=200000",
        "name=small",
        "ladder.depths=[2,4]",
        "budget.tokens=[20480]",
    ]
    arguments = [*study, "--config-dir", str(tmp_path), "--on", "card"]
    screen = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "GB of a GPU, and there are 0.6 GB" in screen
    record = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).output)
    rungs = [rung for of_stage in record["memory"].values() for rung in of_stage]
    assert rungs and not any(rung["fits"] for rung in rungs)
    assert all(rung["needs_gpu_bytes"] > rung["gpu_bytes"] == 6 * 10**8 for rung in rungs)
    without = CliRunner().invoke(app, [*study, "--json"], catch_exceptions=False).output
    assert "memory" not in json.loads(without)
