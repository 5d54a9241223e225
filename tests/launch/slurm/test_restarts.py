"""What a batch script does where its task does not end by its own decision: run by a shell, with Slurm's
commands played by scripts that write down what they were asked."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from sweepctl.launch.slurm import restarts, task_ends
from sweepctl.launch.slurm.records import Records, end_restart, note_progress
from sweepctl.launch.slurm.restarts import REFUSED, RESTARTS
from sweepctl.launch.status import full_status
from tests.conftest import Planner, only

from .cluster import Cluster
from .conftest import launch


class Script:
    """The part of a batch script that ends a task, on a node of Slurm's."""

    def __init__(self, folder: Path, commands: Path) -> None:
        self.folder, self.commands = folder, commands
        (folder / "tasks").mkdir(parents=True, exist_ok=True)
        commands.mkdir()
        self.state, self.fits, self.restart = "RUNNING", "true", 0
        self.requeues = True
        self.excluded: str | None = None
        self.exclude_node_after: int | None = None

    def run(self, body: str, node: str = "node1", setup: tuple[str, ...] = (), on_nodes: bool = True) -> int:
        """Its exit code; every run is the next restart."""
        for name, answer in {"squeue": f"echo {self.state}", "sbatch": self.fits, "scontrol": "true"}.items():
            stub = self.commands / name
            stub.write_text(f'#!/bin/sh\necho {name} "$@" >> {self.commands}/asked\n{answer}\n')
            stub.chmod(0o755)
        lines = [
            restarts.trace(on_nodes, self.requeues, self.excluded, self.exclude_node_after),
            *restarts.strict(setup),
            body,
        ]
        environment = {
            "PATH": f"{self.commands}:{os.environ['PATH']}",
            "SWEEPCTL_ARRAY": str(self.folder),
            "SLURM_ARRAY_JOB_ID": "7",
            "SLURM_ARRAY_TASK_ID": "0",
            "SLURM_RESTART_COUNT": str(self.restart),
            "SLURMD_NODENAME": node,
        }
        script = self.commands / "script.sh"
        script.write_text("sleep() { :; }\n" + "\n".join(lines))
        done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
        self.restart += 1
        self.said = done.stdout + done.stderr
        return done.returncode

    def asked(self, words: str) -> list[str]:
        path = self.commands / "asked"
        return (
            [line for line in path.read_text().splitlines() if line.startswith(words)]
            if path.exists()
            else []
        )

    @property
    def requeued(self) -> int:
        return len(self.asked("scontrol requeue 7_0"))


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path / "array", tmp_path / "commands")


def test_an_end_that_nobody_decided_is_requeued_until_it_gets_no_further(script: Script) -> None:
    for times in range(1, RESTARTS + 1):
        assert script.run("exit 137") == 137 and script.requeued == times
    assert script.run("exit 137") == 137 and script.requeued == RESTARTS
    assert f"ended {RESTARTS + 1} times without getting further" in script.said
    note_progress(script.folder, 0)  # a later restart, started by hand, saves a checkpoint
    assert script.run("exit 1") == 1 and script.requeued == RESTARTS + 1


def test_an_end_by_the_tasks_own_decision_is_final(script: Script) -> None:
    end_restart(script.folder, 0, 0, "node1")
    assert script.run("exit 1") == 1 and script.requeued == 0
    assert script.run("exit 0") == 0 and script.requeued == 0
    assert not (script.folder / "tasks" / "0.ends").exists()


@pytest.mark.parametrize("state", ["CANCELLED", "PENDING", "COMPLETING", "TIMEOUT"])
def test_what_slurm_has_ended_or_requeued_is_left_to_it(script: Script, state: str) -> None:
    script.state = state
    assert script.run("exit 143") == 143 and script.requeued == 0
    assert not (script.folder / "tasks" / "0.ends").exists()


def test_it_goes_elsewhere_where_there_is_an_elsewhere(script: Script) -> None:
    script.excluded = "node8"
    script.run("exit 1", "node1")
    script.run("exit 1", "node2")
    updates = script.asked("scontrol update JobId=7_0")
    assert [line.partition("ExcNodeList=")[2] for line in updates] == ["node8,node1", "node8,node1,node2"]
    script.fits = "false"  # what it asks for is nowhere else
    script.run("exit 1", "node3")
    assert script.requeued == 3 and script.asked("scontrol update JobId=7_0") == updates


def test_a_node_where_many_fail_is_left_out_by_what_waits_of_the_array(script: Script) -> None:
    script.exclude_node_after = 2
    (script.folder / "tasks" / "5.ends").write_text("0 1 node1 1\n")
    script.run("exit 1", "node2")
    assert not script.asked("scontrol update JobId=7 ")
    script.run("exit 1", "node1")
    assert script.asked("scontrol update JobId=7 ") == ["scontrol update JobId=7 ExcNodeList=node1,node2"]


def test_a_file_system_that_refused_is_no_nodes_fault(script: Script) -> None:
    script.run(f"exit {REFUSED}")
    assert script.requeued == 1 and not script.asked("scontrol update")
    assert " - 3" in (script.folder / "tasks" / "0.ends").read_text()


def test_where_nobody_may_ask_slurm_it_leaves_its_trace_alone(script: Script) -> None:
    assert script.run("exit 1", on_nodes=False) == 1 and not script.asked("")
    assert (script.folder / "tasks" / "0.ends").read_text().startswith("0 ")


def test_a_line_of_setup_that_fails_ends_the_task_and_says_which(script: Script, tmp_path: Path) -> None:
    sourced = tmp_path / "activate"
    sourced.write_text("false\ntrue\n")
    fine = (f"source {sourced}", "[ -d /nowhere ] && cd /nowhere", "if true; then", "false || true", "fi")
    assert script.run("false; exit 5", setup=fine) == 5
    assert script.run("echo began", setup=("true", "module load cuda")) == 127
    assert "a line of setup failed with exit code 127: module load cuda" in script.said
    assert "began" not in script.said.replace("began;", "")


def test_a_status_says_which_tasks_ended_before_they_began_and_where(
    cluster: Cluster, planned: Planner
) -> None:
    sweep_jobs = planned(name="stillborn", ladder__depths=[1])
    launch(sweep_jobs)
    [name] = cluster.waiting()
    folder = Path(cluster.tasks[name].folder)
    (folder / f"{name}_0_log.out").write_text(
        "ModuleNotFoundError: no torch\nsrun: error: node1: task 0: Exited\n"
    )
    ends = folder / "tasks" / "0.ends"
    ends.write_text("".join(f"{restart} 9e9 node1 1\n" for restart in range(4)))
    wanted = f"task {name} ended 4 times before it began: ModuleNotFoundError: no torch ("
    [first, second] = full_status(sweep_jobs).notes
    assert first.startswith(wanted) and second == "node1: 4 failures."
    [trunk] = only(sweep_jobs, "trunk")
    records = Records(sweep_jobs.sweep)
    assert task_ends.stillborn_log(records, trunk.job.id) == folder / f"{name}_0_log.out"
    ends.write_text(ends.read_text().replace("9e9", "1"))  # long ago; and now it is trained
    cluster.run_all()
    assert full_status(sweep_jobs).notes == [] and task_ends.stillborn_log(records, trunk.job.id) is None


def test_a_launch_leaves_out_nodes_that_fail_while_others_work(cluster: Cluster, planned: Planner) -> None:
    sweep_jobs = planned(name="bad", ladder__depths=[1])
    launch(sweep_jobs)
    [name] = cluster.waiting()
    folder = Path(cluster.tasks[name].folder)
    records = Records(sweep_jobs.sweep)
    (folder / "tasks" / "0.ends").write_text("0 9e9 node1 1\n" * 3)
    assert task_ends.failures_by_node(task_ends.task_ends(records)) == Counter(node1=3)
    assert task_ends.bad_nodes(records, 3) == ()  # what fails everywhere is no node's fault
    end_restart(folder, 1, 0, "node2")
    assert task_ends.bad_nodes(records, 3) == ("node1",) and task_ends.bad_nodes(records, 4) == ()
    assert task_ends.bad_nodes(records, None) == ()
    cluster.tasks.clear()
    launch(sweep_jobs)
    scripts = [path.read_text() for path in records.folder.glob("arrays/*/script.sh")]
    assert any("#SBATCH --exclude=node1\n" in text for text in scripts)


def test_a_task_that_slurm_may_not_requeue_ends_at_once(script: Script) -> None:
    script.requeues = False
    assert script.run("exit 9") == 9 and script.requeued == 0
    assert (script.folder / "tasks" / "0.ends").exists()
