"""How tasks ended that did not end by their own decision: before they began, and on which nodes."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweepctl.errors import DamagedFile
from sweepctl.launch.slurm.records import Records
from sweepctl.spec.hashing import is_digest
from sweepctl.store import attempts, metrics
from sweepctl.store.ends import End
from sweepctl.store.files import read_json

MEMORY_S = 86_400.0
"""How long a node's failures count against it: it may have been mended."""
SHOWN = 3
"""How many tasks a status tells of."""
_ENDS = re.compile(r"(\d+)\.ends")
_OF_SLURM = re.compile(r"srun: |slurmstepd(?!.*execve)|sweepctl: it ended ")


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """One end that a batch script saw."""

    array: str
    """The array's token."""
    index: int
    """The task's place in it."""
    restart: int
    """Which restart it was."""
    at: float
    """When, in seconds since the epoch."""
    node: str | None
    """Where; None where it is not the node's fault, or nobody knows which one's."""
    began: bool
    """Whether Python had begun."""


def task_ends(records: Records) -> list[TaskEnd]:
    """All of them, also of arrays that have left the queue, oldest first."""
    every: list[TaskEnd] = []
    for token in _names(records.folder / "arrays"):
        folder = records.array_folder(token) / "tasks"
        names = _names(folder)
        for match in filter(None, map(_ENDS.fullmatch, names)):
            every += _read(token, int(match[1]), folder / match[0], names)
    return sorted(every, key=lambda end: end.at)


def _read(token: str, index: int, path: Path, names: set[str]) -> Iterator[TaskEnd]:
    with contextlib.suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                restart, at, node, _ = line.split()
                yield TaskEnd(
                    token, index, int(restart), float(at), None if node == "-" else node,
                    began=f"{index}.{restart}" in names,
                )  # fmt: skip


def failures_by_node(ends: list[TaskEnd]) -> Counter[str]:
    """Node -> how many tasks ended there within a day that should not have."""
    since = time.time() - MEMORY_S
    return Counter(end.node for end in ends if end.node is not None and end.at > since)


def bad_nodes(records: Records, most: int | None) -> tuple[str, ...]:
    """Nodes with so many failures and no task that ended well since, as long as others do their work: what
    fails everywhere is no node's fault."""
    ends = task_ends(records) if most is not None else []
    many = {node for node, count in failures_by_node(ends).items() if count >= (most or 1)}
    if not many:
        return ()
    good = _ended_well(records)
    last = {end.node: end.at for end in ends}
    bad = {node for node in many if good.get(node, 0.0) <= last[node]}
    return tuple(sorted(bad)) if good.keys() - bad else ()


def _ended_well(records: Records) -> dict[str, float]:
    """Node -> when a task ended there last by its own decision."""
    nodes: dict[str, float] = {}
    for path in records.folder.glob("arrays/*/tasks/*.over"):
        with contextlib.suppress(OSError):
            node, at = path.read_text().strip(), path.stat().st_mtime
            nodes[node] = max(at, nodes.get(node, 0.0))
    return nodes


def notes(records: Records, most: int | None = None) -> list[str]:
    """What a status says of them."""
    ends = task_ends(records)
    said = _before_they_began(records, ends)
    if counts := failures_by_node(ends):
        nodes = [f"{node}: {count} failure{'s' * (count > 1)}" for node, count in counts.most_common(8)]
        excluded = bad_nodes(records, most)
        said.append(", ".join(nodes) + (f"; {', '.join(excluded)} left out" if excluded else "") + ".")
    return said


def _before_they_began(records: Records, ends: list[TaskEnd]) -> list[str]:
    said = [_sentence(records, stillborn) for stillborn in _stillborn(records, ends)]
    more = [f"{len(said) - SHOWN} more tasks ended before they began."] if len(said) > SHOWN else []
    return said[:SHOWN] + more


@dataclass(frozen=True, slots=True)
class Stillborn:
    """A task that ended before it began, and whose job nobody has begun since."""

    array: str
    """The array's token."""
    index: int
    """The task's place in it."""
    job: str
    """What it is meant for."""
    times: int
    """How often in a row."""


def _stillborn(records: Records, ends: list[TaskEnd]) -> Iterator[Stillborn]:
    times: Counter[tuple[str, int]] = Counter()
    last: dict[tuple[str, int], float] = {}
    for end in ends:
        task = (end.array, end.index)
        times[task] = 0 if end.began else times[task] + 1
        last[task] = end.at
    for (token, index), count in times.items():
        with contextlib.suppress(FileNotFoundError, DamagedFile, LookupError, TypeError):
            job = str(read_json(records.array_folder(token) / "array.json")["jobs"][index])
            if count and is_digest(job) and not _begun_since(records, token, index, job, last[token, index]):
                yield Stillborn(token, index, job, count)


def _begun_since(records: Records, token: str, index: int, job: str, at: float) -> bool:
    """Whether the task itself or any other has begun its job meanwhile, or had ended it before."""
    folder = records.array_folder(token) / "tasks"
    for path in (*folder.glob(f"{index}.job"), *folder.glob(f"{index}.*.over")):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime > at:
                return True
    attempt = attempts.newest(records.sweep.workspace.job(job))
    if attempt is None:
        return False
    facts = attempt.facts
    return facts.why in (End.DONE, End.DIVERGED) or (facts.started or 0.0) > at or attempt.alive()


def _sentence(records: Records, task: Stillborn) -> str:
    name = f"{records.id(task.array) or task.array}_{task.index}"
    log = _log(records, task)
    times = f"{task.times} times " if task.times > 1 else ""
    words = last_words(log) if log is not None else ""
    return f"task {name} ended {times}before it began: {words or 'it wrote nothing'} ({log or 'no log'})"


def stillborn_log(records: Records, job: str) -> Path | None:
    """What the task of a job printed that ended before it began; None where it began."""
    tasks = [task for task in _stillborn(records, task_ends(records)) if task.job == job]
    return _log(records, tasks[-1]) if tasks else None


def _log(records: Records, task: Stillborn) -> Path | None:
    logs = sorted(records.array_folder(task.array).glob(f"*_{task.index}_0_log.out"))
    logs = logs or sorted(records.array_folder(task.array).glob(f"*_{task.index}_log.out"))
    return logs[-1] if logs else None


def last_words(log: Path) -> str:
    """The last line that a task printed, but for what Slurm says of any task that fails."""
    lines = [line.strip() for line in metrics.tail(log) if line.strip()]
    own = [line for line in lines if not _OF_SLURM.match(line)]
    return (own or lines or [""])[-1]


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
