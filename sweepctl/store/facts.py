"""What attempt.json says, in types.

A record grows as its attempt goes on, and older versions wrote less: what is not there is None here. What is
written and what this version does not know stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from sweepctl.errors import DamagedFile, RequestError
from sweepctl.spec.build import build
from sweepctl.store.ends import OLD_OUT_OF_RETRIES, End


@dataclass(frozen=True, slots=True)
class Origin:
    """The checkpoint that something goes on from."""

    job: str
    """Whose checkpoint it is."""
    step: int
    """The step it was saved at."""
    attempt: int
    """The attempt that saved it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """Who gave a process its place, as the launcher says."""

    launcher: str | None = None
    """The launcher's kind."""
    scheduler_id: str | None = None
    """The batch system's name for the place: its task."""
    cluster: str | None = None
    """The batch system itself, which gives out its names anew."""
    job_name: str | None = None
    """The name that the task was submitted under."""
    array: str | None = None
    """Our own name for what was submitted together."""
    restart: int = 0
    """How often the batch system has started the task again."""
    user: int | None = None
    """Whose task it is."""
    log: str | None = None
    """What the process writes to."""
    submitted_code: str | None = None
    """The version of the code at submission."""

    def record(self) -> dict[str, Any]:
        """What an attempt's record says of it."""
        always = ("launcher", "scheduler_id", "log")
        values = {f.name: getattr(self, f.name) for f in fields(Dispatch)}
        return {k: v for k, v in values.items() if k in always or (v is not None and self.array is not None)}

    def has_lost_its_place(self, here: Dispatch, gone: Container[str]) -> bool:
        """Whether this is of a task that is gone, or of an earlier restart of the very task that asks
        (`here`)."""
        if self.scheduler_id is None or self.cluster != here.cluster:
            return False
        same_task = (self.scheduler_id, self.array) == (here.scheduler_id, here.array)
        return self.scheduler_id in gone or (same_task and self.restart < here.restart)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts(Dispatch):
    """An attempt's record. The names are the keys of the file."""

    attempt: int | None = None
    """Its number."""
    host: str | None = None
    """The machine."""
    pid: int | None = None
    """The process there."""
    process_start: str | None = None
    """When that process started, in the kernel's count."""
    boot: str | None = None
    """Which boot of the machine that was."""
    started: float | None = None
    """When the job was claimed, in seconds since the epoch."""
    execution: Mapping[str, Any] = field(default_factory=dict)
    """How the job was to be run."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of what it was run with."""
    code: str | None = None
    """The version of our own code."""
    environment: tuple[str, ...] = ()
    """Names of the variables that were set."""
    started_from: Origin | None = None
    """The checkpoint that was loaded."""
    start_step: int | None = None
    """The step it went on from; None where it did not come so far as to train."""
    start_tokens: int | None = None
    """The tokens of that step."""
    start_lr: float | None = None
    """The learning rate there."""
    device: str | None = None
    """What it trained on, by name."""
    device_kind: str | None = None
    """What kind of device that is (cpu, cuda, rocm); older versions did not say."""
    micro_batch_rows: int | None = None
    """Sequences at once."""
    lowered: bool = False
    """Whether those were halved, by it or before it, for want of memory."""
    gemm: str | None = None
    """Which library multiplied matrices."""
    compiled: bool | None = None
    """Whether the model went through torch.compile; older versions say it in `execution`."""
    cuda_graphs: bool | None = None
    """Whether a step's kernels were launched together."""
    deterministic: bool | None = None
    """Whether deterministic algorithms were asked for; older versions asked for none."""
    loss_chunks: int | None = None
    """The pieces in which the loss was computed."""
    world_size: int = 1
    """Processes that trained together, a device each."""
    shard: str | None = None
    """What they shared out; older versions did not say, and shared nothing."""
    counted_memory_bytes: int | None = None
    """What a process needs of its device's memory by the plan's count."""
    peak_memory_bytes: int | None = None
    """The most that tensors of rank 0 took of it; None on a CPU."""
    hosts: tuple[str, ...] = ()
    """Their machines."""
    end_step: int | None = None
    """The step it got to."""
    trained_tokens: int | None = None
    """Tokens it trained on."""
    train_s: float | None = None
    """Seconds it trained."""
    tokens_per_s: float | None = None
    """Their quotient."""
    mfu: float | None = None
    """The share of the devices' peak that was used."""
    ended: float | None = None
    """When it ended."""
    why: End | None = None
    """Why it ended; None where it has not said so."""
    error: str | None = None
    """Its last words."""
    out_of_retries: bool = False
    """Whether its process died once more than the job's retries allow."""

    @property
    def devices(self) -> float:
        """How many devices it had, a part of one where several jobs shared a GPU."""
        per_gpu = self.execution.get("per_gpu", 1)
        shares = type(per_gpu) is int and per_gpu > 1 and self.device_kind in ("cuda", "rocm")
        return self.world_size / per_gpu if shares else self.world_size

    @property
    def failure(self) -> End | None:
        """What the job has failed of, by this attempt; None where it has not."""
        return self.why if self.why is not None and (self.why.is_failure or self.out_of_retries) else None

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self:
        """The facts of a record of any version.

        Raises:
            DamagedFile: a value is of a kind that was never written.
        """
        values = {key: value for key, value in record.items() if key in NAMES and value is not None}
        for key, value in values.items():
            if not _can_be(value, _KINDS[key]):
                raise DamagedFile(f"{key} cannot be {str(value)[:80]}")
        asked = values.get("execution", {}).get("compile")
        if isinstance(asked, bool):
            values.setdefault("compiled", asked)
        if "started_from" in values:
            try:
                values["started_from"] = build(Origin, values["started_from"])
            except RequestError as error:
                raise DamagedFile(f"started_from: {error}") from None
        if "why" in values:
            values["out_of_retries"] = values.get("out_of_retries") or values["why"] == OLD_OUT_OF_RETRIES
            values["why"] = End.read(values["why"])
        return cls(**values)


NAMES = frozenset(field.name for field in fields(Facts))


def _kind(annotation: str) -> type | tuple[type, ...]:
    """What JSON may hold for a field."""
    word = annotation.removesuffix(" | None").partition("[")[0]
    kinds = {"str": str, "End": str, "int": int, "bool": bool, "tuple": list}
    return (int, float) if word == "float" else kinds.get(word, dict)


_KINDS = {field.name: _kind(str(field.type)) for field in fields(Facts)}


def _can_be(value: Any, kind: type | tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int) and not -(2**63) < value < 2**63:
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if isinstance(value, (list, dict)):
        parts = value.values() if isinstance(value, dict) else value
        return isinstance(value, kind) and (kind is dict or all(isinstance(part, str) for part in parts))
    return isinstance(value, kind)
