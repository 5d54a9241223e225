"""A Slurm cluster as its file in `launchers/` describes it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from sweepctl.errors import InvalidValue
from sweepctl.launch.retries import Retries
from sweepctl.launch.rungs import for_rung
from sweepctl.launch.variables import check
from sweepctl.launch.workers import Gpu, check_price, check_watchdog
from sweepctl.spec.build import build, plain
from sweepctl.spec.execution import Execution
from sweepctl.spec.peaks import check_gpu_memory

_GPUS = re.compile(r"gpus|(gres|tres-per-\w+)=(.*,)?(gres[:/])?gpu")
_OPTION = re.compile(r"[a-z][a-z0-9-]*")
_AMOUNTS = ("gpus_per_node", "cpus_per_task", "mem_gb", "time_min")
_OURS = ("array", "dependency", "error", "hold", "job-name", "open-mode", "output", "signal")
"""sbatch options that a launch sets itself."""
_OF_RESOURCES = {
    "account": "account",
    "constraint": "constraint",
    "cpus-per-task": "cpus_per_task",
    "gpus-per-node": "gpus_per_node",
    "gres": "gres",
    "cpus-per-gpu": "cpus_per_task",
    "gpus": "gpus_per_node",
    "gpus-per-task": "gpus_per_node",
    "mem": "mem_gb",
    "mem-per-cpu": "mem_gb",
    "mem-per-gpu": "mem_gb",
    "nodes": "nodes",
    "ntasks": "tasks_per_node",
    "ntasks-per-node": "tasks_per_node",
    "partition": "partition",
    "qos": "qos",
    "time": "time_min",
}
"""sbatch options, and the resource that says the same where it is not null."""
_WHOLE = ("gpus",)
"""Options whose name another's begins with."""
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_TASK_KEYS = ("sbatch", "srun_args", "environment", "execution", "workers")
"""What a rung may have of its own beside resources: mappings are put over the launcher's."""


def whole_minutes(text: str) -> int:
    """A time as Slurm writes it (`M`, `M:S`, `H:M:S`, `D-H`, `D-H:M`, `D-H:M:S`) in minutes, rounded up.

    Raises:
        InvalidValue: it is none.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise InvalidValue(
            "time_min", text, "minutes, or a time as Slurm writes it, such as 1-12:00 or 04:00:00"
        )
    days, *rest = (None if part is None else int(part) for part in match.groups())
    parts = [part for part in rest if part is not None]
    if days is None and len(parts) < 3:
        parts.insert(0, 0)  # minutes, or minutes and seconds
    hours, minutes, seconds = [*parts, 0, 0][:3]
    return ((days or 0) * 24 + hours) * 60 + minutes + (seconds > 0)


def _one_line(key: str, value: object) -> None:
    if isinstance(value, str) and ("\n" in value or "\r" in value or "\0" in value):
        raise InvalidValue(key, value, "one line")


def _plain_text(key: str, value: object) -> None:
    """Of an option of a script, which no shell reads."""
    _one_line(key, value)
    if isinstance(value, str) and re.search(r"\$(\w|\{)", value):
        raise InvalidValue(
            key, value, "a text without $NAME, which Slurm does not expand: write ${oc.env:NAME}"
        )


@dataclass(frozen=True, slots=True)
class Resources:
    """What one Slurm task of a job gets: a class of jobs shares arrays."""

    partition: str | None
    """None: the cluster's default."""
    account: str | None
    """The account that pays."""
    qos: str | None
    """The quality of service."""
    constraint: str | None
    """Features that a node must have."""
    gres: str | None
    """Such as gpu:h100:1, in place of `gpus_per_node`."""
    nodes: int
    """Nodes of one task."""
    tasks_per_node: int
    """Processes a node: one a GPU."""
    gpus_per_node: int | None
    """None for none."""
    cpus_per_task: int | None
    """Of a process."""
    mem_gb: float | None
    """Of a node; None: the cluster's default."""
    time_min: int
    """The time limit."""

    @classmethod
    def tidy(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The mapping with a time as Slurm writes it in minutes, and without empty texts."""
        tidy = {key: None if value == "" else value for key, value in raw.items()}
        if isinstance(raw.get("time_min"), str):
            tidy["time_min"] = whole_minutes(raw["time_min"])
        return tidy

    def __post_init__(self) -> None:
        for key in ("nodes", "tasks_per_node", "time_min"):
            if getattr(self, key) < 1:
                raise InvalidValue(key, getattr(self, key), "at least 1")
        if self.gpus_per_node is not None and self.gpus_per_node < 1:
            raise InvalidValue("gpus_per_node", self.gpus_per_node, "at least 1, or null for none")
        if self.cpus_per_task is not None and self.cpus_per_task < 1:
            raise InvalidValue("cpus_per_task", self.cpus_per_task, "at least 1, or null")
        if self.mem_gb is not None and self.mem_gb <= 0:
            raise InvalidValue("mem_gb", self.mem_gb, "above 0, or null")
        if self.gres is not None and self.gpus_per_node is not None:
            raise InvalidValue("gres", self.gres, "null where gpus_per_node is given: both ask for GPUs")
        for setting in fields(self):
            _plain_text(setting.name, getattr(self, setting.name))

    def within(self, other: Resources) -> bool:
        """Whether a job with these resources can use a place with the others: as many processes, and no more
        of anything."""
        pairs = ((getattr(self, key) or 0, getattr(other, key) or 0) for key in _AMOUNTS)
        same = (self.nodes, self.tasks_per_node, self.gres, self.constraint)
        return same == (other.nodes, other.tasks_per_node, other.gres, other.constraint) and all(
            mine <= theirs for mine, theirs in pairs
        )

    @property
    def processes(self) -> int:
        """Processes that train one job together."""
        return self.nodes * self.tasks_per_node

    def __str__(self) -> str:
        gpus = self.gres or (f"{self.gpus_per_node} GPU" if self.gpus_per_node else "no GPU")
        nodes = f"{self.nodes} nodes x {self.tasks_per_node} processes, " if self.processes > 1 else ""
        return f"{nodes}{gpus}, {self.time_min} min" + (f", {self.partition}" if self.partition else "")


@dataclass(frozen=True, slots=True)
class SlurmSettings:
    """One cluster."""

    kind: Literal["slurm"]
    """The launcher."""
    resources: Resources
    """Of the tasks of every rung that `rungs` says nothing of."""
    rungs: dict[str, dict[str, Any]]
    """Other resources, workers, sbatch, srun_args, environment and execution, for rungs by name or
    pattern."""
    workers: int
    """Jobs that a task of one process trains side by side, sharing what it was given: times
    `execution.per_gpu` where that is GPUs."""
    sbatch: dict[str, str | int | bool | None]
    """Further options; false, null and an empty text leave one out."""
    srun_args: tuple[str, ...]
    """Further arguments of srun."""
    setup: tuple[str, ...]
    """Lines of shell that every task runs first."""
    environment: dict[str, str | int | float | None]
    """Variables of the jobs; None: as it is where it is submitted."""
    python: str | None
    """The compute nodes' interpreter, or a command line that starts one; None: the one that launches."""
    parallel: int | None
    """Tasks of one array that run at once; None: as many as there are."""
    max_submitted: int | None
    """Tasks in the queue at once, where the site allows fewer than Slurm says."""
    commands_on_nodes: bool
    """Whether jobs may call scontrol, squeue and sbatch."""
    wait_min: float
    """Where they may not: how long a branch's task waits for its checkpoint."""
    save_ahead_s: int
    """How long before the time limit a task saves."""
    watchdog_min: float | None
    """How long a worker may say nothing before its task ends it and goes elsewhere; None: for ever."""
    exclude_node_after: int | None
    """Failures of a node after which this sweep's tasks keep away from it; None: never."""
    retries: Retries
    """How often a job is taken up again, by class of failure."""
    execution: Execution
    """How jobs are run."""
    price_per_device_hour: float | None
    """What a device costs, for plans to say; None: they say no price."""
    gpu_memory: float | str | None
    """GB of a GPU, or its name, for plans to say which rungs do not fit; None: they say nothing of it."""

    def __post_init__(self) -> None:
        for name, value in self.sbatch.items():
            _check_option(name, value, self.resources)
        check(self.environment)
        for argument in self.srun_args:
            _one_line("srun_args", argument)
        for line in self.setup:
            if "\0" in line:
                raise InvalidValue("setup", line, "a text without a zero byte")
        if self.python is not None:
            _check_command(self.python)
        if self.workers < 1:
            raise InvalidValue("workers", self.workers, "at least 1")
        if self.workers > 1 and self.resources.processes > 1:
            raise InvalidValue(
                "workers", self.workers, "1 where a task has several processes: they share a job"
            )
        if self.execution.per_gpu > 1 and self.resources.processes > 1:
            raise InvalidValue(
                "execution.per_gpu",
                self.execution.per_gpu,
                "1 where a task has several processes: they share a job",
            )
        for key in ("parallel", "max_submitted", "exclude_node_after"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise InvalidValue(key, getattr(self, key), "at least 1, or null")
        check_watchdog(self.watchdog_min)
        check_price(self.price_per_device_hour)
        check_gpu_memory(self.gpu_memory)
        if self.wait_min < 0:
            raise InvalidValue("wait_min", self.wait_min, "at least 0")
        if self.save_ahead_s < 1:
            raise InvalidValue("save_ahead_s", self.save_ahead_s, "at least 1")
        for wanted in (self.resources, *(self.resources_of(pattern) for pattern in self.rungs)):
            if self.save_ahead_s >= 60 * wanted.time_min:
                limit = f"less than {60 * wanted.time_min}, which is time_min={wanted.time_min}"
                raise InvalidValue("save_ahead_s", self.save_ahead_s, limit)

    @property
    def gpu(self) -> Gpu | None:
        """Who promises a GPU to the workers of its tasks."""
        wanted = [f"gres={self.resources.gres}", *(f"{key}={value}" for key, value in self.options.items())]
        asks = self.resources.gpus_per_node is not None or any(_GPUS.match(option) for option in wanted)
        return "allocation" if asks else None

    @property
    def side_by_side(self) -> int:
        """Workers of a task: `workers`, and where it has GPUs as many times that as share one."""
        on_gpus = self.gpu is not None and self.execution.device != "cpu"
        return self.workers * (self.execution.per_gpu if on_gpus else 1)

    def within(self, other: SlurmSettings) -> bool:
        """Whether a job with these settings of a rung can use a task with the others."""
        mine, theirs = (
            (it.sbatch, it.srun_args, it.environment, it.execution.threads, it.execution.per_gpu)
            for it in (self, other)
        )
        return mine == theirs and self.resources.within(other.resources)

    def resources_of(self, rung: str) -> Resources:
        """A rung's resources."""
        return self.of_rung(rung).resources

    def of_rung(self, rung: str) -> SlurmSettings:
        """The settings with those of a rung in their place.

        Raises:
            RequestError: an unknown key or a wrong value, named with the rung.
        """
        changes = [own for pattern, own in self.rungs.items() if fnmatchcase(rung, pattern)]
        if not rung or not changes:
            return replace(self, rungs={})
        resources = {
            pattern: {key: value for key, value in own.items() if key not in _TASK_KEYS}
            for pattern, own in self.rungs.items()
        }
        settings = plain(self) | {"rungs": {}, "resources": for_rung(self.resources, resources, rung)}
        for own in changes:
            for key in own.keys() & set(_TASK_KEYS):
                below = settings[key]
                merge = isinstance(below, Mapping) and isinstance(own[key], Mapping)
                settings[key] = {**below, **own[key]} if merge else own[key]
            if "keep" in own.get("execution", {}):
                raise InvalidValue(
                    f"rungs.{rung}.execution.keep", own["execution"]["keep"], "set for all rungs"
                )
        return build(SlurmSettings, settings, f"rungs.{rung}")

    @property
    def options(self) -> dict[str, str | int]:
        """The options of sbatch that are to be in a script; true stands for an option without a value."""
        chosen = {name: value for name, value in self.sbatch.items() if value is not False and value != ""}
        if self.sbatch.get("requeue") is False:
            chosen["no-requeue"] = True
        if "no-requeue" not in chosen:
            chosen.setdefault("requeue", True)
        return {name: value for name, value in chosen.items() if value is not None}


def _check_option(name: str, value: str | int | bool | None, resources: Resources) -> None:
    if not _OPTION.fullmatch(name) or len(name) == 1:
        raise InvalidValue("sbatch", name, "the long name of an sbatch option, such as reservation")
    if name == "clusters":
        raise InvalidValue(
            "sbatch.clusters", value, "set as the variable SLURM_CLUSTERS, for all of Slurm's commands"
        )
    key = _OF_RESOURCES.get(name)
    if key is not None and getattr(resources, key) is not None:
        raise InvalidValue(f"sbatch.{name}", value, f"left out where resources.{key} says it, or that null")
    if name in _OURS:
        raise InvalidValue("sbatch", name, f"an option that sweepctl does not set ({', '.join(_OURS)})")
    others = (*_OURS, *_OF_RESOURCES)
    if name not in (*_WHOLE, *others) and any(other.startswith(name) for other in others):
        raise InvalidValue("sbatch", name, "the whole name of an sbatch option, not its beginning")
    _plain_text(f"sbatch.{name}", value)


def _check_command(python: str) -> None:
    _one_line("python", python)
    try:
        words = shlex.split(python)
    except ValueError:
        words = []
    if not words and not Path(python).exists():
        raise InvalidValue("python", python, "a path, or a command line that a shell can read")
