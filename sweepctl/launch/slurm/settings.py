"""A Slurm cluster as its file in `launchers/` describes it."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, Literal

from sweepctl.errors import InvalidValue
from sweepctl.launch.retries import Retries
from sweepctl.launch.rungs import each_pattern, for_rung
from sweepctl.spec.execution import Execution

_OPTION = re.compile(r"[a-z][a-z0-9-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_AMOUNTS = ("gpus_per_node", "cpus_per_task", "mem_gb", "time_min")
_OURS = ("array", "dependency", "error", "hold", "job-name", "open-mode", "output", "signal")
"""sbatch options that a launch sets itself."""


def _one_line(key: str, value: object) -> None:
    if isinstance(value, str) and ("\n" in value or "\r" in value or "\0" in value):
        raise InvalidValue(key, value, "one line")


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
            _one_line(setting.name, getattr(self, setting.name))

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
    """Other resources for rungs by name or pattern."""
    sbatch: dict[str, str | int | bool]
    """Further options."""
    srun_args: tuple[str, ...]
    """Further arguments of srun."""
    setup: tuple[str, ...]
    """Lines of shell that every task runs first."""
    environment: dict[str, str | int | float]
    """Variables of the jobs."""
    python: str | None
    """The compute nodes' interpreter; None: the one that launches."""
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
    retries: Retries
    """How often a job is taken up again, by class of failure."""
    execution: Execution
    """How jobs are run."""

    def __post_init__(self) -> None:
        for name, value in self.sbatch.items():
            if not _OPTION.fullmatch(name):
                raise InvalidValue("sbatch", name, "the long name of an sbatch option, such as reservation")
            if name in _OURS:
                raise InvalidValue(
                    "sbatch", name, f"an option that sweepctl does not set ({', '.join(_OURS)})"
                )
            _one_line(f"sbatch.{name}", value)
        for name in self.environment:
            if not _VARIABLE.fullmatch(name):
                raise InvalidValue("environment", name, "the name of a variable")
        for key in ("parallel", "max_submitted"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise InvalidValue(key, getattr(self, key), "at least 1, or null")
        if self.wait_min < 0:
            raise InvalidValue("wait_min", self.wait_min, "at least 0")
        if self.save_ahead_s < 1:
            raise InvalidValue("save_ahead_s", self.save_ahead_s, "at least 1")
        for wanted in (self.resources, *each_pattern(self.resources, self.rungs)):
            if self.save_ahead_s >= 60 * wanted.time_min:
                limit = f"less than {60 * wanted.time_min}, which is time_min={wanted.time_min}"
                raise InvalidValue("save_ahead_s", self.save_ahead_s, limit)

    def resources_of(self, rung: str) -> Resources:
        """A rung's resources.

        Raises:
            RequestError: an unknown key or a wrong value, named with the rung.
        """
        return for_rung(self.resources, self.rungs, rung)
