"""What attempts measured of speed, kept in the workspace for the plans that come: one small file a class.

<workspace>/store/throughput/HASH.json   one shape on one kind of device, run in one way: tokens, seconds

A class is what the speed depends on; its hash is the file's name. Whoever ends an attempt adds to its class
and replaces the file in one step, so that it is always whole: of two that add at the same moment one
measurement is lost, which an estimate bears. What is damaged, foreign or of a later version is passed over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Self

from sweepctl.errors import DamagedFile, RequestError, StorageError
from sweepctl.spec import hashing
from sweepctl.spec.accounting import Counts, count
from sweepctl.spec.build import build, plain
from sweepctl.spec.science import Point
from sweepctl.store.facts import Facts
from sweepctl.store.files import names, read_json, replacing
from sweepctl.store.job import JobFolder
from sweepctl.store.workspace import Workspace

FOLDER = "throughput"
MEMORY_S = 3600.0
"""Device time that a class remembers: what was measured longer ago weighs less and less, so that a trainer
that has become faster is soon believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedClass:
    """What the speed of an attempt depends on."""

    rung: str
    """The shape's name."""
    d_model: int
    """Its width."""
    size: int
    """Elements of the matrices that multiply a token: N, with the output matrix."""
    flops_per_token: int
    """Exact training FLOPs, at the context that it had."""
    architecture: str
    """Hash of the architecture and the kind of optimizer."""
    precision: str
    """The science's."""
    kind: Literal["trunk", "branch", "run"]
    """A branch is short, and much of it is evaluation: its speed is its own."""
    device: str
    """What it trained on, by name."""
    device_kind: str
    """cpu, cuda or rocm; empty where older versions did not say."""
    compiled: bool
    """Whether the model went through torch.compile."""
    micro_batch_rows: int
    """Sequences at once."""
    threads: int
    """Of a process on the CPU."""
    processes: int
    """That trained together, a device each."""

    @property
    def file(self) -> str:
        return f"{hashing.digest(hashing.canonical(plain(self)))}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSpeed:
    """A class and what was measured of it."""

    of: SpeedClass
    """The class."""
    tokens: float
    """Trained."""
    device_s: float
    """Seconds of training, of all devices together."""
    attempts: float
    """Attempts that the next is a sum of."""
    beside_s: float
    """Device seconds from claim to end that were not training: start, evaluation, checkpoints."""
    ended: float
    """When the newest ended, in seconds since the epoch."""

    @property
    def flops_per_s(self) -> float:
        """Of one device."""
        return self.tokens * self.of.flops_per_token / self.device_s

    @property
    def is_possible(self) -> bool:
        """Whether the numbers can be of an attempt, wherever they come from."""
        of = self.of
        counted = (self.tokens, self.device_s, self.attempts, of.flops_per_token, of.size, of.d_model)
        return min(counted) > 0 and max(counted) < 1e30 and min(self.beside_s, self.ended) >= 0

    def after(self, earlier: Self) -> Self:
        """Both together, what is older faded."""
        kept = min(1.0, max(0.0, MEMORY_S - self.device_s) / earlier.device_s)
        return dataclasses.replace(
            self,
            ended=max(self.ended, earlier.ended),
            **{
                key: getattr(self, key) + kept * getattr(earlier, key)
                for key in ("tokens", "device_s", "attempts", "beside_s")
            },
        )


def of_attempt(kind: str, point: Point, counts: Counts, facts: Facts) -> MeasuredSpeed | None:
    """What an attempt's record says of speed; None where it did not train, or does not say on what."""
    if not (facts.trained_tokens and facts.train_s and facts.device and kind in ("trunk", "branch", "run")):
        return None
    device_s = facts.train_s * facts.devices
    took_s = max(0.0, (facts.ended or 0.0) - (facts.started or 0.0)) if facts.started else 0.0
    threads = facts.execution.get("threads", 1)
    return MeasuredSpeed(
        of=SpeedClass(
            rung=point.shape.name,
            d_model=point.shape.d_model,
            size=counts.matrix_elements,
            flops_per_token=counts.exact_flops_per_token,
            architecture=architecture(point),
            precision=point.precision,
            kind=kind,  # type: ignore[arg-type]
            device=facts.device,
            device_kind=facts.device_kind or "",
            compiled=bool(facts.compiled),
            micro_batch_rows=facts.micro_batch_rows or point.batch.rows,
            threads=threads if type(threads) is int else 1,
            processes=facts.world_size,
        ),
        tokens=float(facts.trained_tokens),
        device_s=device_s,
        attempts=1.0,
        beside_s=max(0.0, took_s * facts.devices - device_s),
        ended=facts.ended or 0.0,
    )


def is_compiled(setting: object, device_kind: str) -> bool:
    """What the setting `compile` comes to on a kind of device: auto compiles on a GPU."""
    return device_kind not in ("", "cpu") if setting == "auto" else setting is True


def architecture(point: Point) -> str:
    """What is not told by a shape's name: the architecture, and what an update does beside products."""
    return _architecture(hashing.canonical(plain(point.model)), point.optimizer.name)


@cache
def _architecture(model: str, optimizer: str) -> str:
    return hashing.digest(f"{model} {optimizer}")


def note(job: JobFolder, kind: str, point: Point, facts: Facts) -> None:
    """Add what an attempt measured to its class. Not durable, and not worth failing for."""
    with contextlib.suppress(StorageError, OSError):
        counts = count(point.shape, point.model, point.corpus.vocab_size, point.batch.context)
        speed = of_attempt(kind, point, counts, facts)
        if speed is None or not speed.is_possible:
            return
        path = job.path.parent.parent / FOLDER / speed.of.file
        path.parent.mkdir(exist_ok=True)
        earlier = _read(path)
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(plain(speed.after(earlier) if earlier else speed)) + "\n")


def recorded(workspace: Workspace) -> Iterator[MeasuredSpeed]:
    """What all sweeps of the workspace have measured.

    Raises:
        StorageError: the file system does not say what there is.
    """
    folder = workspace.root / "store" / FOLDER
    for name in sorted(names(folder)):
        speed = _read(folder / name) if name.endswith(".json") and not name.startswith(".") else None
        if speed is not None:
            yield speed


def _read(path: Path) -> MeasuredSpeed | None:
    """The record in a file, None where it is none of this class."""
    try:
        speed = build(MeasuredSpeed, read_json(path))
    except (FileNotFoundError, DamagedFile, RequestError):
        return None
    return speed if speed.of.file == path.name and speed.is_possible else None
