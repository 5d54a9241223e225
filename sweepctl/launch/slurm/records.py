"""What was submitted, on disk: an intent before every `sbatch`, the array's id after it.

<sweep>/slurm/orders/USER/HASH.json what a launch asked for: plans, stages held back, settings of the cluster
<sweep>/slurm/forgiven.json         job -> attempts up to this number do not count against its retries
<sweep>/slurm/unsubmitted.USER.json how many jobs of that user's order have no task of their own, and why
<sweep>/slurm/arrays/TOKEN/
    array.json                      one job array: its jobs by index, their order, resources (the intent)
    id                              the array's id, by whoever learns it first: the launch, or its first task
    closed                          nothing came of it: why
    tasks/I.R                       task I began its R-th restart; an older one that sees a newer one ends
    tasks/I.job                     the jobs that it has in hand, a line each
    tasks/I.ended                   it has come to its end
    tasks/I.R.over, I.ends, I.progress   how its restarts ended, as restarts.py says
    script.sh                       what sbatch was given, to be read
    variables                       a fingerprint of the values of its variables, for nobody else
    *.out                           what the tasks printed

Orders and arrays are their user's: others read them, nobody else can write there, and a task takes its own
user's word alone for what it runs.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from sweepctl.errors import DamagedFile, RequestError, StorageError
from sweepctl.launch.defaults import build_settings
from sweepctl.launch.order import Order
from sweepctl.launch.ownership import READABLE, is_own, owner, protected_folder, read_own_json
from sweepctl.launch.slurm.settings import Resources, SlurmSettings
from sweepctl.spec import hashing
from sweepctl.spec.build import build, plain
from sweepctl.store import attempts
from sweepctl.store.files import create, exists, names, read_bytes, read_json, storage, write_json, write_text
from sweepctl.store.workspace import Sweep

UNSEEN_S = 7 * 86_400.0
"""How long a colleague's task that the queue hides, and that has not begun, counts as waiting."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SlurmOrder(Order):
    """What a launch asked of a cluster."""

    @property
    def settings(self) -> SlurmSettings:
        return build_settings(SlurmSettings, self.launcher)


@dataclass(frozen=True, slots=True)
class Array:
    """One job array, before and after it has an id. Task i is meant for `jobs[i]`, and takes others too."""

    token: str
    """Our own name for it, and its folder."""
    order: str
    """The hash of the order that it came of."""
    name: str
    """The name that it was submitted under."""
    cluster: str
    """The cluster it went to."""
    jobs: tuple[str, ...]
    """The jobs that its tasks are meant for, by index."""
    resources: Resources
    """What a task gets."""
    held: bool = False
    """Whether its tasks wait to be released."""
    dependency: str | None = None
    """What it waits for where nobody may release it."""
    gone: tuple[str, ...] = ()
    """Tasks that Slurm had given up when it was submitted."""
    excluded: tuple[str, ...] = ()
    """Nodes that it leaves out, for what befell earlier tasks there."""
    by: dict[str, Any] = field(default_factory=dict)
    """Who submitted it, and when."""
    rung: str = ""
    """A rung of its class: what its tasks are like beside `resources`; empty where all rungs are alike."""

    @property
    def user(self) -> int:
        """Whose it is: of one that was read, by the file system."""
        return int(self.by.get("user", os.getuid()))

    @property
    def is_own(self) -> bool:
        return self.user == os.getuid()

    @property
    def owner(self) -> str:
        """The name of whose it is; empty: this user's."""
        return "" if self.is_own else user_name(self.user)


@dataclass(frozen=True, slots=True)
class Records:
    """The submissions of one sweep."""

    sweep: Sweep
    """The sweep."""

    @property
    def folder(self) -> Path:
        return self.sweep.folder / "slurm"

    def array_folder(self, token: str) -> Path:
        return self.folder / "arrays" / token

    def write_order(self, order: SlurmOrder) -> None:
        path = protected_folder(self._orders) / f"{order.hash}.json"
        if is_own(path):
            os.utime(path)
        else:
            write_json(path, plain(order), READABLE)

    def order(self, digest: str) -> SlurmOrder:
        """This user's order of a hash.

        Raises:
            DamagedFile: it is missing, somebody else can have written it, or it is not what was ordered.
        """
        path = self._orders / f"{digest}.json"
        if not path.exists():  # of an older version
            path = self.folder / "orders" / f"{digest}.json"
        raw = _read(path)
        if hashing.digest(hashing.canonical(raw)) != digest:
            raise DamagedFile(f"{path} is not what was ordered; launch again.")
        return _built(SlurmOrder, raw, path)

    def newest_order(self) -> SlurmOrder | None:
        """The order that this user wrote last."""
        files = [*self._orders.glob("*.json"), *(self.folder / "orders").glob("*.json")]
        own = sorted(filter(is_own, files), key=lambda path: path.stat().st_mtime)
        return self.order(own[-1].stem) if own else None

    @property
    def _orders(self) -> Path:
        return self.folder / "orders" / str(os.getuid())

    def intend(self, array: Array) -> Path:
        """Write down what is about to be submitted; the array's folder."""
        folder = protected_folder(self.array_folder(array.token))
        protected_folder(folder / "tasks")
        write_json(folder / "array.json", plain(array), READABLE)
        return folder

    def own_array(self, token: str) -> Array:
        """An array of this user's, for its tasks.

        Raises:
            DamagedFile: it is missing, or somebody else can have written it.
        """
        path = self.array_folder(token) / "array.json"
        return _built(Array, _read(path), path)

    def arrays(self) -> list[Array]:
        """Every array of which something may have come, oldest first."""
        arrays = []
        for token in names(self.folder / "arrays"):
            try:
                if (array := self._array(token)) is not None:
                    arrays.append(array)
            except (DamagedFile, RequestError, FileNotFoundError):
                continue
            except StorageError as error:
                if not isinstance(error.__cause__, PermissionError):  # a colleague's may be closed to us
                    raise
        return sorted(arrays, key=lambda array: (array.by["at"], array.token))

    def _array(self, token: str) -> Array | None:
        """An array as it says itself, and whose it is by the file system; None where it is closed."""
        folder = self.array_folder(token)
        if exists(folder / "closed"):
            return None
        path = folder / "array.json"
        array = build(Array, read_json(path))
        at = array.by.get("at", 0.0)
        author = {"user": owner(path), "at": float(at) if isinstance(at, int | float) else 0.0}
        return replace(array, token=token, by={**array.by, **author})

    def closed_names(self) -> set[str]:
        """The names of arrays of which nothing came, or nothing is left."""
        tokens = (path.parent.name for path in (self.folder / "arrays").glob("*/closed"))
        return {f"{self.sweep.name}.{token}" for token in tokens}

    def id(self, token: str) -> str | None:
        """The array's id, None where nobody has learned it yet."""
        path = self.array_folder(token) / "id"
        try:
            text = read_bytes(path).decode(errors="replace").strip()
        except FileNotFoundError:
            return None
        return text if re.fullmatch("[0-9]+", text) else None

    def variables(self, token: str) -> str:
        """The fingerprint of an own array's variables, empty where it has none."""
        try:
            return read_bytes(self.array_folder(token) / "variables").decode(errors="replace")
        except FileNotFoundError:
            return ""

    def write_id(self, token: str, array_id: str) -> None:
        if self.id(token) is None:
            write_text(self.array_folder(token) / "id", array_id, READABLE)

    def close(self, token: str, why: str) -> None:
        """Nothing came of an intent, or nothing is left of an array: do not ask for it any more."""
        write_text(self.array_folder(token) / "closed", why + "\n", READABLE)

    def held_tasks(self, jobs: set[str], cluster: str) -> list[str]:
        """This user's tasks that were submitted held to this cluster and are meant for these jobs, as
        `ARRAY_INDEX`."""
        tasks = []
        for array in self.arrays():
            if not (array.held and array.is_own and array.cluster == cluster):
                continue
            if (array_id := self.id(array.token)) is not None:
                tasks += [f"{array_id}_{i}" for i, job in enumerate(array.jobs) if job in jobs]
        return tasks

    def names(self) -> dict[str, str]:
        """Array id -> the name that this user submitted it under."""
        own = ((self.id(array.token), array.name) for array in self.arrays() if array.is_own)
        return {array_id: name for array_id, name in own if array_id is not None}

    def forgive(self, jobs: dict[str, int]) -> None:
        """Do not count failed attempts up to these numbers against retries; tasks that are queued see it
        too."""
        before = self.forgiven()
        if any(number > before.get(job, 0) for job, number in jobs.items()):
            with storage(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "forgiven.json", before | jobs)

    def forgiven(self) -> dict[str, int]:
        try:
            numbers = read_json(self.folder / "forgiven.json")
        except (FileNotFoundError, DamagedFile):
            return {}
        return {job: number for job, number in numbers.items() if type(number) is int}

    def note_unsubmitted(self, count: int, why: str) -> None:
        """Say how many jobs have no task of their own, and what was refused."""
        path = self._unsubmitted(os.getuid())
        if count:
            write_json(path, {"jobs": count, "why": why, "at": time.time()}, READABLE)
        else:
            with storage(path):
                path.unlink(missing_ok=True)

    def unsubmitted(self, user: int | None = None) -> dict[str, Any] | None:
        """What was noted last of a user's jobs without a task; by default this user's."""
        try:
            note = read_json(self._unsubmitted(os.getuid() if user is None else user))
        except (FileNotFoundError, DamagedFile):
            return None
        return note if isinstance(note.get("jobs"), int) and isinstance(note.get("why"), str) else None

    def _unsubmitted(self, user: int) -> Path:
        return self.folder / f"unsubmitted.{user}.json"

    def users(self) -> list[int]:
        """Who has ordered something, this user first."""
        users = {int(name) for name in names(self.folder / "orders") if name.isdigit()}
        return sorted(users | {os.getuid()}, key=lambda user: (user != os.getuid(), user))


def new_token() -> str:
    return uuid.uuid4().hex[:10]


def author() -> dict[str, Any]:
    """Who submits, and when."""
    return {"host": socket.gethostname(), "user": os.getuid(), "pid": os.getpid(), "at": time.time()}


def user_name(user: int) -> str:
    """What a user is called here."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def end_task(folder: Path, index: int) -> None:
    """Say that a task has come to its end: its user's colleagues may not see that in the queue."""
    with contextlib.suppress(StorageError, OSError):
        create(folder / "tasks" / f"{index}.ended", durable=False)


def has_ended(array: Array, folder: Path, index: int) -> bool:
    """Whether a task that the queue does not show is over by what it left: it said so, or its time has run
    out since it began, or it has not begun for longer than anybody waits."""
    tasks = folder / "tasks"
    if (tasks / f"{index}.ended").exists():
        return True
    began = max((path.stat().st_mtime for path in tasks.glob(f"{index}.[0-9]*")), default=None)
    if began is None:
        return time.time() - float(array.by.get("at", 0.0)) > UNSEEN_S
    return time.time() - began > 60 * array.resources.time_min + attempts.LEASE_S


def begin_task(folder: Path, index: int, restart: int) -> None:
    """Say that this restart of a task runs."""
    (folder / "tasks" / f"{index}.ended").unlink(missing_ok=True)
    create(folder / "tasks" / f"{index}.{restart}", durable=False)


def end_restart(folder: Path, index: int, restart: int, node: str) -> None:
    """Say that this restart of a task ends by its own decision, here."""
    with contextlib.suppress(StorageError):  # then it is started again, and finds that nothing is left
        write_text(folder / "tasks" / f"{index}.{restart}.over", node, READABLE)


def note_progress(folder: Path, index: int) -> None:
    """Say that a task has got further, so that what befell it before counts no more."""
    ends = folder / "tasks" / f"{index}.ends"
    with contextlib.suppress(OSError, StorageError):
        write_text(ends.with_suffix(".progress"), str(len(ends.read_text().splitlines())), READABLE)


def outrun(folder: Path, index: int, restart: int) -> bool:
    """Whether a newer restart of the task has begun: this process belongs to a node that was given up."""
    return (folder / "tasks" / f"{index}.{restart + 1}").exists()


def _built(kind: type[T], raw: dict[str, Any], path: Path) -> T:
    try:
        return build(kind, raw)
    except RequestError as error:
        raise DamagedFile(f"{path} is damaged: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_own_json(path)
    except FileNotFoundError:
        raise DamagedFile(f"{path} is missing.") from None
