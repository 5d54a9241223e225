"""One job array as a batch script, through submitit.

submitit makes the script; the command is our own module, so that no pickle has to be put in place after
sbatch has already started a task, and a launch may die at any moment.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from sweepctl.launch.ownership import READABLE
from sweepctl.launch.slurm.records import Array
from sweepctl.launch.slurm.settings import SlurmSettings
from sweepctl.launch.slurm.submitit_executor import CommandExecutor
from sweepctl.store.files import write_text

TASK = "sweepctl.launch.slurm.task"
STILLBORN_RESTARTS = 3
"""How often a task that fails before its first line of Python requeues itself."""

_STILLBORN = f"""\
requeue_stillborn() {{
  code=$?
  begun="$SWEEPCTL_ARRAY/tasks/$SLURM_ARRAY_TASK_ID.${{SLURM_RESTART_COUNT:-0}}"
  if [ "$code" -ne 0 ] && [ "$code" -lt 128 ] && [ ! -e "$begun" ] \\
      && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {STILLBORN_RESTARTS} ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
    sleep 60
  fi
  exit "$code"
}}
trap requeue_stillborn EXIT"""


def script(array: Array, folder: Path, launcher: SlurmSettings, module: str = TASK) -> str:
    """The text that sbatch is given; `module` is what its tasks run, with arguments."""
    return _executor(array, folder, launcher).script(_command(launcher, module))


def submit(array: Array, folder: Path, launcher: SlurmSettings) -> str:
    """Call sbatch once; the array's id.

    Raises:
        SlurmError: it refused.
    """
    write_text(folder / "script.sh", script(array, folder, launcher), READABLE)
    return _executor(array, folder, launcher).submit_command(_command(launcher))


def _executor(array: Array, folder: Path, launcher: SlurmSettings) -> CommandExecutor:
    wanted = array.resources
    executor = CommandExecutor(folder)
    # submitit asks for a signal ahead of the time limit, which Slurm may send a minute early: to a
    # process that has no handler yet and dies of it. Tasks go by the clock, and of this signal nobody dies.
    options: dict[str, Any] = {"requeue": True, "signal": "URG@0", **launcher.sbatch}
    if array.held:
        options["hold"] = True
    if array.dependency:
        options["dependency"] = array.dependency
        options["kill-on-invalid-dep"] = "no"
    parameters: dict[str, Any] = {
        "job_name": array.name,
        "comment": f"sweepctl {array.token}",
        "time": wanted.time_min,
        "nodes": wanted.nodes,
        "ntasks_per_node": wanted.tasks_per_node,
        "gpus_per_node": wanted.gpus_per_node,
        "cpus_per_task": wanted.cpus_per_task,
        "partition": wanted.partition,
        "account": wanted.account,
        "qos": wanted.qos,
        "constraint": wanted.constraint,
        "gres": wanted.gres,
        "array_parallelism": launcher.parallel or len(array.jobs),
        "stderr_to_stdout": True,
        "additional_parameters": options,
        "setup": _setup(folder, launcher),
        "srun_args": _srun_args(array, launcher),
    }
    if wanted.mem_gb is not None:
        parameters["mem"] = f"{round(wanted.mem_gb * 1024)}M"
    executor.parameters.update({k: v for k, v in parameters.items() if v is not None})
    executor.parameters["wckey"] = None
    executor.parameters["map_count"] = len(array.jobs)
    return executor


def _srun_args(array: Array, launcher: SlurmSettings) -> list[str]:
    arguments = []
    if array.resources.cpus_per_task is not None:  # from Slurm 22.05 on srun does not take it from sbatch
        arguments.append(f"--cpus-per-task={array.resources.cpus_per_task}")
    if array.resources.processes > 1:
        arguments += ["--kill-on-bad-exit=1", "--wait=60"]
    return [*arguments, *launcher.srun_args]


def _setup(folder: Path, launcher: SlurmSettings) -> list[str]:
    lines = [f"export SWEEPCTL_ARRAY={shlex.quote(str(folder))}"]
    lines += [f"export {name}={shlex.quote(str(value))}" for name, value in launcher.environment.items()]
    if launcher.commands_on_nodes:
        lines.append(_STILLBORN)
    return [*lines, *launcher.setup]


def _command(launcher: SlurmSettings, module: str = TASK) -> str:
    return f"{shlex.quote(launcher.python or sys.executable)} -u -P -m {module}"
