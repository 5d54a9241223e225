"""A Slurm cluster as its file in `launchers/` describes it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
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

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    time_min: int = 60

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
    """One cluster. `rungs` changes resources for rungs by name or pattern; `sbatch` adds options,
    `environment` variables, `setup` lines of shell that every task runs first."""

    kind: Literal["slurm"] = "slurm"
    resources: Resources = Resources()
    rungs: dict[str, dict[str, Any]] = field(default_factory=dict)
    sbatch: dict[str, str | int | bool] = field(default_factory=dict)
    srun_args: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    environment: dict[str, str | int | float] = field(default_factory=dict)
    python: str | None = None
    parallel: int | None = None
    max_submitted: int | None = None
    commands_on_nodes: bool = True
    wait_min: float = 0.0
    save_ahead_s: int = 120
    retries: Retries = Retries()
    execution: Execution = Execution()

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
                raise InvalidValue("save_ahead_s", self.save_ahead_s, f"less than time_min={wanted.time_min}")

    def resources_of(self, rung: str) -> Resources:
        """A rung's resources.

        Raises:
            RequestError: an unknown key or a wrong value, named with the rung.
        """
        return for_rung(self.resources, self.rungs, rung)
