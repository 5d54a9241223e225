"""Launchers behind their one interface: found by kind, and asked only about sweeps they have records of."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, fields, is_dataclass, replace

import pytest

from sweepctl.errors import InvalidValue
from sweepctl.launch.launcher import Launcher, kinds, launcher_class, launchers_of, read_launcher
from sweepctl.launch.slurm.records import SlurmOrder
from sweepctl.launch.status import full_status
from sweepctl.launch.tasks import Task, TaskState
from sweepctl.resources import launchers_dir
from sweepctl.spec.compose import compose_launcher
from tests.conftest import Planner, only


@pytest.mark.parametrize("name", sorted(path.stem for path in launchers_dir().glob("*.yaml")))
def test_every_file_of_launchers_is_one(name: str) -> None:
    launcher = read_launcher(name, compose_launcher(name, []))
    assert isinstance(launcher, Launcher) and type(launcher) is launcher_class(launcher.kind)


def test_a_kind_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidValue, match=" or ".join(kinds())):
        read_launcher("x", {"kind": "pbs"})
    with pytest.raises(InvalidValue, match="kind"):
        read_launcher("x", {})


def test_what_a_file_leaves_out_is_as_in_the_file_of_its_kind() -> None:
    whole = read_launcher("slurm", compose_launcher("slurm", [])).settings
    short = read_launcher("ours", {"kind": "slurm", "resources": {"time_min": 30}}).settings
    assert short == replace(whole, resources=replace(whole.resources, time_min=30))
    order = SlurmOrder({}, (), {"kind": "slurm", "retries": {"died": 7}}, "of an older version")
    assert order.settings == replace(whole, retries=replace(whole.retries, died=7))


@pytest.mark.parametrize("kind", kinds())
def test_no_default_is_written_twice(kind: str) -> None:
    """Settings have no defaults in code, but for how any trainer runs where nobody says."""
    settings = read_launcher(kind, {"kind": kind}).settings
    parts = [getattr(settings, name, None) for name in ("resources", "retries")]
    for record in (settings, *filter(is_dataclass, parts)):
        written = [f.name for f in fields(record) if (f.default, f.default_factory) != (MISSING, MISSING)]
        assert written == []


LOOK = """
import sys
from sweepctl.cli import app
for arguments in (["launch", "{sweep}", "--dry-run"], ["status", "{sweep}"], ["cancel", "{sweep}", "--yes"]):
    try:
        app(arguments, standalone_mode=False)
    except SystemExit as done:
        assert not done.code
print("LOADED", *sys.modules)
"""


def loaded(sweep: str) -> set[str]:
    """The modules that looking at a sweep, and cancelling it, imports."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(sweep=sweep)], capture_output=True, text=True, check=True
    )
    return set(done.stdout.partition("LOADED ")[2].split())


def test_a_local_sweep_never_enters_slurms_code(planned: Planner) -> None:
    sweep_jobs = planned(name="here")
    modules = loaded("here")
    assert "sweepctl.launch.backends.local" in modules
    assert not {name for name in modules if name.startswith(("sweepctl.launch.slurm", "submitit", "torch"))}
    assert "sweepctl.launch.backends.slurm" not in modules
    assert launchers_of(sweep_jobs.sweep) == []


def test_who_left_records_is_asked(planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_jobs = planned(name="there")
    (sweep_jobs.sweep.folder / "slurm").mkdir()
    assert launchers_of(sweep_jobs.sweep) == [launcher_class("slurm")]
    from sweepctl.launch.slurm.commands import as_task

    [trunk, *_] = only(sweep_jobs, "trunk")
    tasks = {trunk.job.id: [as_task("7_1", "PENDING", "JobHeldUser"), as_task("8_1", "PENDING", "Priority")]}
    monkeypatch.setattr(launcher_class("slurm"), "tasks", lambda sweep: tasks)
    [(planned_job, state)] = full_status(sweep_jobs).in_state("queued")
    assert planned_job is trunk and state.note == "Priority"
    assert full_status(sweep_jobs).queue[trunk.job.id].state is TaskState.PENDING


def test_nobody_waits_for_what_is_held_or_has_ended(
    planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_jobs = planned(name="there")
    held, ended = Task("7_1", TaskState.PENDING, held=True), Task("8_1", TaskState.ENDED)
    for kind in kinds():
        monkeypatch.setattr(launcher_class(kind), "tasks", lambda *_: {"a": [held, ended]})
        launcher = read_launcher(kind, compose_launcher(kind, []))
        assert len(launcher.wait(sweep_jobs, lambda jobs, tasks: None)) == len(sweep_jobs.by_id)
