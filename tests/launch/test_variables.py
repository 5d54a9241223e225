"""Variables of jobs: their values reach tasks, and nobody else."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sweepctl.cli import app
from sweepctl.errors import RequestError
from sweepctl.launch.launcher import LaunchRequest, read_launcher
from sweepctl.launch.outcome import ToSubmit
from sweepctl.launch.retry import choose
from sweepctl.launch.slurm import supervisor
from sweepctl.launch.slurm.records import Records
from sweepctl.launch.slurm.script import script
from sweepctl.launch.variables import TEMPLATE, VALUE, exports, handed_on
from sweepctl.spec.compose import compose_launcher
from tests.conftest import Planner

from .settings import slurm
from .slurm.cluster import Cluster, stand_in
from .slurm.conftest import OVERRIDES, launch
from .test_slurm import an_array

SECRET = "hf_s3cret `id` & more"
OVERRIDE = f'environment.TOKEN="{SECRET}"'


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return stand_in(monkeypatch)


def texts(folder: Path, but: tuple[str, ...] = ()) -> str:
    """All that anybody may read below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in but]
    return "\n".join(path.read_text(errors="replace") for path in files)


def test_values_reach_tasks_and_no_file(cluster: Cluster, planned: Any) -> None:
    sweep_jobs = planned(name="secret", ladder__depths=[1])
    launch(sweep_jobs, OVERRIDE)
    folder = sweep_jobs.sweep.workspace.root
    assert "TOKEN" in texts(folder) and SECRET not in texts(folder)
    assert SECRET not in "".join(cluster.scripts)
    assert {task.variables[f"{VALUE}TOKEN"] for task in cluster.tasks.values()} == {SECRET}
    cluster.run_all()
    assert SECRET not in texts(folder) and not list(sweep_jobs.unfinished())


def test_what_a_task_submits_has_the_values_of_the_task(
    cluster: Cluster, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_jobs = planned(name="topped", ladder__depths=[1])
    launch(sweep_jobs, OVERRIDE, "max_submitted=1")
    assert Records(sweep_jobs.sweep).unsubmitted() is not None
    monkeypatch.setattr(supervisor.Feed, "startable", lambda *_: iter(()))  # it takes its own job alone
    [name] = cluster.waiting()
    cluster.run(name)
    [topped] = cluster.tasks.values()
    assert topped.name != name and topped.variables == {f"{VALUE}TOKEN": SECRET}


def test_a_rehearsal_does_not_show_values(
    cluster: Cluster, planned: Planner, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_jobs = planned(name="shown", ladder__depths=[1])
    monkeypatch.setenv("SWEEPCTL_HOME", str(sweep_jobs.sweep.workspace.root))
    for on in ("slurm", "batch"):
        for more in ([], ["--json"]):
            app(["launch", "shown", "--on", on, "--dry-run", OVERRIDE, *more], standalone_mode=False)
            shown = capsys.readouterr().out
            assert "TOKEN" in shown and SECRET not in shown, (on, more)


def test_a_rehearsal_shows_the_script_that_is_submitted(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="rehearsed", ladder__depths=[1])
    words = (OVERRIDE, "environment.PATH='/opt/bin:$PATH'")
    request = LaunchRequest(sweep_jobs, [], choose(sweep_jobs, ["none"]))
    rehearsal = read_launcher("slurm", compose_launcher("slurm", [*OVERRIDES, *words])).rehearse(request)
    launch(sweep_jobs, *words)
    assert isinstance(rehearsal, ToSubmit)
    for shown, submitted in zip(rehearsal.submissions, cluster.scripts, strict=True):
        assert re.sub("[0-9a-f]{10}", "", shown.script) == re.sub("[0-9a-f]{10}", "", submitted)
    assert "'$PATH'" in cluster.scripts[0] and "/opt/bin" not in cluster.scripts[0]


def test_a_script_of_any_scheduler_takes_them_from_a_file_of_its_users(planned: Planner) -> None:
    sweep_jobs = planned(name="scripts", ladder__depths=[1])
    launcher = read_launcher("batch", compose_launcher("batch", [OVERRIDE]))
    launcher.launch(LaunchRequest(sweep_jobs, [], choose(sweep_jobs, ["none"])), None)  # type: ignore[arg-type]
    [folder] = (sweep_jobs.sweep.folder / "batch").iterdir()
    assert SECRET not in texts(folder, but=("environment.sh",))
    assert stat.S_IMODE((folder / "environment.sh").stat().st_mode) == 0o600
    run = (folder / "run.sh").read_text().replace("\nexec ", '\nprintf %s "$TOKEN"; : ')
    assert subprocess.run(["bash", "-c", run], capture_output=True, text=True).stdout == SECRET


@pytest.mark.parametrize("export", ["NONE", "NIL", "HOME,USER", "ALL", "ALL,A=b"])
def test_they_are_handed_on_whatever_else_is(export: str) -> None:
    launcher = slurm(sbatch={"export": export}, environment={"A": 1, "B": 2})
    text = script(an_array(), Path("/f"), launcher)
    named = f"{VALUE}A,{VALUE}B"
    expected = {"NONE": named, "NIL": named, "HOME,USER": f"HOME,USER,{named}"}.get(export, export)
    assert f"#SBATCH --export={expected}\n" in text
    assert " --export=ALL " in text.splitlines()[-1]


def test_null_is_the_value_where_it_is_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "outer $x")
    assert handed_on({"TOKEN": None, "N": 3}) == {f"{VALUE}TOKEN": "outer $x", f"{VALUE}N": "3"}
    monkeypatch.setenv(f"{VALUE}TOKEN", "handed on")
    assert handed_on({"TOKEN": None}) == {f"{VALUE}TOKEN": "handed on"}
    monkeypatch.setenv(f"{TEMPLATE}TOKEN", "$HOME/x")
    assert handed_on({"TOKEN": None}) == {f"{TEMPLATE}TOKEN": "$HOME/x"}
    for name in ("TOKEN", f"{VALUE}TOKEN", f"{TEMPLATE}TOKEN"):
        monkeypatch.delenv(name)
    with pytest.raises(RequestError, match=r"environment\.TOKEN is null, and TOKEN is not set"):
        handed_on({"TOKEN": None})


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("/opt/bin:$HERE", "/opt/bin:a & 'b'\\"),
        ("${HERE}/$HERE/$HEREAFTER-$NOT_SET", "a & 'b'\\/a & 'b'\\/later-"),
        ('$HERE `id` $(id) "x" \\ ${HERE:-no}', "a & 'b'\\ `id` $(id) \"x\" \\ ${HERE:-no}"),
        ("$5 and $", "$5 and $"),
    ],
)
def test_variables_are_expanded_where_the_task_runs(text: str, expanded: str) -> None:
    """As in a shell, and nothing else of what a shell does."""
    texts = handed_on({"WORD": text})
    lines = "\n".join([*exports(texts), 'printf %s "$WORD"'])
    here = {"HERE": "a & 'b'\\", "HEREAFTER": "later", **texts}
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, env=here)
    assert done.stdout == expanded and "x" not in lines.replace("export", "")


def test_a_launch_without_a_value_writes_nothing(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="unset", ladder__depths=[1])
    assert "NOT_THERE" not in os.environ
    with pytest.raises(RequestError, match="NOT_THERE"):
        launch(sweep_jobs, "environment.NOT_THERE=null")
    assert not (sweep_jobs.sweep.folder / "slurm").exists() and not cluster.tasks
