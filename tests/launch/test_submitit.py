"""What is not submitit's public interface and yet called: this fails when a release moves it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from submitit.slurm.slurm import SlurmExecutor

from sweepctl.launch.slurm.submitit_executor import CommandExecutor
from tests.test_layers import ROOT

PRIVATE = re.compile(r"[\w)]\._(?:make_submission|submit_command|num_tasks|write_job_id)\w*")


def test_the_methods_are_what_they_were() -> None:
    parameters = inspect.signature(SlurmExecutor._make_submission_file_text).parameters
    assert list(parameters) == ["self", "command", "uid"]


def test_a_script_is_made_where_there_is_no_slurm(tmp_path: Path) -> None:
    executor = CommandExecutor(tmp_path)
    executor.parameters["job_name"] = "name"
    script = executor.script("python -m module")
    assert "#SBATCH --job-name=name\n" in script and script.rstrip().endswith("python -m module")
    assert list(tmp_path.iterdir()) == []


def test_they_are_called_in_one_module() -> None:
    callers = {path.name for path in ROOT.rglob("*.py") if PRIVATE.search(path.read_text())}
    assert callers == {"submitit_executor.py"}
