"""One job array as a batch script, through submitit.

submitit makes the script; the command is our own module, so that no pickle has to be put in place after
sbatch has already started a task, and a launch may die at any moment.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from sweepctl.launch.ownership import PRIVATE, READABLE
from sweepctl.launch.script_words import python_command, shell_word
from sweepctl.launch.slurm.records import Array
from sweepctl.launch.slurm.restarts import strict, trace
from sweepctl.launch.slurm.settings import SlurmSettings
from sweepctl.launch.slurm.submitit_executor import CommandExecutor
from sweepctl.launch.variables import exports, fingerprint, handed_on
from sweepctl.store.files import write_text

TASK = "sweepctl.launch.slurm.task"


def script(array: Array, folder: Path, launcher: SlurmSettings, module: str = TASK) -> str:
    """The text that sbatch is given; `module` is what its tasks run, with arguments."""
    launcher = launcher.of_rung(array.rung)
    return _executor(array, folder, launcher).script(_command(array, launcher, module))


def submit(array: Array, folder: Path, launcher: SlurmSettings) -> str:
    """Call sbatch once; the array's id. Variables whose values the settings do not have are taken from this
    process's own.

    Raises:
        SlurmError: it refused.
        RequestError: such a variable is not set.
    """
    launcher = launcher.of_rung(array.rung)
    executor, command = _executor(array, folder, launcher), _command(array, launcher)
    variables = handed_on(launcher.environment)
    write_text(folder / "script.sh", executor.script(command), READABLE)
    if variables:
        write_text(folder / "variables", fingerprint(variables), PRIVATE)
    return executor.submit_command(command, variables)


def _executor(array: Array, folder: Path, launcher: SlurmSettings) -> CommandExecutor:
    wanted = array.resources
    executor = CommandExecutor(folder)
    # submitit asks for a signal ahead of the time limit, which Slurm may send a minute early: to a
    # process that has no handler yet and dies of it. Tasks go by the clock, and of this signal nobody dies.
    options: dict[str, Any] = {"signal": "URG@0"} | launcher.options
    exported = str(options.get("export", "ALL"))
    if launcher.environment and exported.partition(",")[0].upper() != "ALL":  # then it hands on nothing else
        named = [] if exported.upper() in ("NONE", "NIL") else [exported]
        options["export"] = ",".join([*named, *handed_on(launcher.environment, strict=False)])
    if (excluded := _excluded(array, launcher)) is not None:
        options["exclude"] = excluded
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
        "setup": _setup(array, folder, launcher),
    }
    if wanted.mem_gb is not None:
        parameters["mem"] = f"{round(wanted.mem_gb * 1024)}M"
    executor.parameters.update({k: v for k, v in parameters.items() if v is not None})
    executor.parameters["wckey"] = None
    executor.parameters["map_count"] = len(array.jobs)
    return executor


def _srun_args(array: Array, launcher: SlurmSettings) -> list[str]:
    arguments = ["--export=ALL"]  # what the script has set: sbatch's own --export is meant for the script
    if array.resources.cpus_per_task is not None:  # from Slurm 22.05 on srun does not take it from sbatch
        arguments.append(f"--cpus-per-task={array.resources.cpus_per_task}")
    if array.resources.processes > 1:
        arguments += ["--kill-on-bad-exit=1", "--wait=60"]
    return [*arguments, *launcher.srun_args]


def _setup(array: Array, folder: Path, launcher: SlurmSettings) -> list[str]:
    lines = [f"export SWEEPCTL_ARRAY={shlex.quote(str(folder))}"]
    lines += exports(handed_on(launcher.environment, strict=False))
    requeues = "no-requeue" not in launcher.options
    excluded = _excluded(array, launcher)
    lines.append(trace(launcher.commands_on_nodes, requeues, excluded, launcher.exclude_node_after))
    return [*lines, *strict(launcher.setup)]


def _excluded(array: Array, launcher: SlurmSettings) -> str | None:
    """The nodes that are left out: by the settings, and those on which this sweep's tasks failed."""
    nodes = [*filter(None, [launcher.options.get("exclude")]), *array.excluded]
    return ",".join(map(str, nodes)) or None


def _command(array: Array, launcher: SlurmSettings, module: str = TASK) -> str:
    """The rest of the line that begins with srun."""
    arguments = [shell_word(argument) for argument in _srun_args(array, launcher)]
    return " ".join([*arguments, python_command(launcher.python), "-u", "-P", "-m", module])
