"""Attempts: who executes a job, whether they are alive, and why they ended.

An attempt is claimed by renaming a folder, its record inside, to the next number: two processes cannot
both succeed. On one host liveness is exact (process id and its start time; a process that cannot be seen but
is there lives); from another host an attempt counts as alive until its last sign is `LEASE_S` old by the file
system's own clock, and a job is never taken from an attempt that might be alive.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweepctl.errors import DamagedFile, StorageError
from sweepctl.spec.build import plain
from sweepctl.store.clock import file_system_time
from sweepctl.store.ends import End
from sweepctl.store.facts import NAMES, Dispatch, Facts
from sweepctl.store.files import exists, names, read_json, reading, storage, sync_folder, write_json
from sweepctl.store.job import JobFolder

_NUMBER = re.compile(r"(?!0+$)[0-9]{4,9}")
LEASE_S = 300.0
"""How old the last sign of an attempt on another host may grow before the attempt counts as dead."""
RENEW_S = 10.0
"""How often an owner says that its process lives."""


@dataclass(slots=True)
class Attempt:
    """One execution of a job: who, where, since when, and at the end why."""

    path: Path
    """Its folder."""
    number: int
    """Attempts of a job are numbered from 1."""
    record: dict[str, Any] = field(default_factory=dict)
    """attempt.json as it is on disk, for who writes or prints it; who reads it takes `facts`."""
    _facts: Facts | None = None

    @property
    def facts(self) -> Facts:
        """What the record says."""
        if self._facts is None:
            try:
                self._facts = Facts.read(self.record)
            except DamagedFile as error:
                file = self.path / "attempt.json"
                self._facts = Facts(attempt=self.number, error=f"{file} is damaged: {error}.")
        return self._facts

    @property
    def ended(self) -> bool:
        return self.facts.why is not None

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def note(self, **facts: Any) -> None:
        """Add facts, by their names in `Facts`, to what is written next."""
        unknown = facts.keys() - NAMES
        if unknown:
            raise TypeError(f"an attempt's record has no {', '.join(sorted(unknown))}")
        self.record.update(plain(facts))
        self._facts = None

    def update(self, **facts: Any) -> None:
        """Add facts to the record; only the attempt itself does this."""
        self.note(**facts)
        write_json(self.path / "attempt.json", self.record)

    def end(self, why: End, **facts: Any) -> None:
        """Give up ownership, saying why."""
        self.update(ended=time.time(), why=why, **facts)

    def beat(self, step: int, tokens: int) -> None:
        """Say that it lives, and how far it is. Not durable, and not worth failing for."""
        scratch = self.path / ".heartbeat"
        with contextlib.suppress(OSError):
            scratch.write_text(f'{{"step": {step}, "tokens": {tokens}}}\n')
            os.replace(scratch, self.path / "heartbeat.json")

    def renew(self) -> None:
        """Say that the process lives, by the file system's clock; how far it is `beat` says."""
        with contextlib.suppress(OSError):
            (self.path / "lease").touch()

    def progress(self) -> dict[str, Any]:
        """The last heartbeat, empty where there is none."""
        try:
            beat = read_json(self.path / "heartbeat.json")
        except (FileNotFoundError, DamagedFile):
            return {}
        return beat if type(beat.get("step")) is int else {}

    def alive(self) -> bool:
        """Whether its process may still be running; only a clear no is a no.

        Raises:
            StorageError: the file system does not say.
        """
        if self.ended:
            return False
        facts = self.facts
        if facts.pid is not None and (facts.host, facts.boot) == (socket.gethostname(), boot_id()):
            return process_lives(facts.pid, facts.process_start)
        last = self._last_write()
        return last is not None and file_system_time(self.path.parent) - last < LEASE_S

    def _last_write(self) -> float | None:
        """When anything was last written here; None where its folder is gone."""
        try:
            with reading(self.path):
                files = list(self.path.iterdir()) or [self.path]
                return max(file.lstat().st_mtime for file in files)
        except FileNotFoundError:  # also where a file was replaced between two looks
            return self._last_write() if exists(self.path) else None


def newest(folder: JobFolder) -> Attempt | None:
    """The attempt with the highest number."""
    numbers = _numbers(folder)
    return _read(folder, numbers[-1]) if numbers else None


def owned(folder: JobFolder) -> bool:
    """Whether a process that may be alive owns the job."""
    last = newest(folder)
    return last is not None and last.alive()


def every(folder: JobFolder) -> list[Attempt]:
    """All attempts, oldest first."""
    return [_read(folder, number) for number in _numbers(folder)]


def facts_of(folder: JobFolder, number: int) -> Facts | None:
    """What the attempt of this number says of itself; None where it is gone."""
    return _read(folder, number).facts if number in _numbers(folder) else None


def claim(
    folder: JobFolder, facts: Mapping[str, Any], gone: Callable[[Dispatch], bool] | None = None
) -> Attempt | None:
    """Become the owner of a job, with these facts on record; None where somebody who may be alive owns it.
    `gone` says of an owner whether whoever gave its process a place has taken that back: then it is not
    waited for, and should the process still run it finds itself superseded."""
    while True:
        last = newest(folder)
        if last is not None and last.record.get("claim") in _unanswered:
            _unanswered.discard(last.record["claim"])
            return last
        if last is not None and last.alive() and not (gone is not None and gone(last.facts)):
            return None
        number = last.number + 1 if last else 1
        record = {
            "attempt": number,
            "claim": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_start": process_start(os.getpid()),
            "boot": boot_id(),
            "started": time.time(),
            **plain(facts),
        }
        attempt = Attempt(folder.attempts / f"{number:04d}", number, record)
        if _take(folder, attempt):
            _sweep_scratch(folder)
            return attempt


_unanswered: set[str] = set()
"""Claims of this process of which the file system did not say whether they were made."""


def _take(folder: JobFolder, attempt: Attempt) -> bool:
    """Put an attempt at its number; False where somebody else has it."""
    scratch = folder.attempts / f".claim-{attempt.record['claim'][:8]}"
    with storage(attempt.path):
        try:
            scratch.mkdir(parents=True)
            write_json(scratch / "attempt.json", attempt.record)
            os.rename(scratch, attempt.path)
            for place in (folder.attempts, *folder.attempts.parents[:3]):  # up to the store's own folder
                sync_folder(place)
        except (OSError, StorageError) as error:
            if _is_ours(attempt):  # the answer was lost, or its folders could not be synced
                return True
            cause = error if isinstance(error, OSError) else error.__cause__
            if getattr(cause, "errno", None) not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
            return False  # ENOENT: a new owner has swept the scratch away
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return True


def _is_ours(attempt: Attempt) -> bool:
    """Whether the record at its place is of the claim that this process made."""
    token = attempt.record["claim"]
    try:
        return bool(read_json(attempt.path / "attempt.json").get("claim") == token)
    except (FileNotFoundError, DamagedFile):
        return False
    except StorageError:
        _unanswered.add(token)
        raise


@contextlib.contextmanager
def renewed(attempt: Attempt) -> Iterator[Attempt]:
    """Keep ownership from a thread of its own, whatever takes long meanwhile: an evaluation, a checkpoint, a
    first step that is compiled."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(RENEW_S):
            attempt.renew()

    thread = threading.Thread(target=renew, name=f"lease of {attempt.path}", daemon=True)
    thread.start()
    try:
        yield attempt
    finally:
        over.set()
        thread.join()


def _sweep_scratch(folder: JobFolder) -> None:
    """Delete the claims of killed processes. One that is being made this moment has lost anyway."""
    with contextlib.suppress(StorageError):
        for name in names(folder.attempts):
            if name.startswith("."):
                shutil.rmtree(folder.attempts / name, ignore_errors=True)


def prune(folder: JobFolder) -> None:
    """Delete all attempts but the newest, where only the newest says anything."""
    for number in _numbers(folder)[:-1]:
        shutil.rmtree(folder.attempts / f"{number:04d}", ignore_errors=True)


def superseded(folder: JobFolder, attempt: Attempt) -> bool:
    """Whether a newer attempt owns the job, or the job's folder was deleted meanwhile, so that this one must
    stop."""
    if exists(folder.attempts / f"{attempt.number + 1:04d}"):
        return True
    try:
        claim = read_json(attempt.path / "attempt.json").get("claim")
    except FileNotFoundError:
        return True
    except DamagedFile:
        return False
    return bool(claim != attempt.record.get("claim"))


def boot_id() -> str:
    """This boot of this machine and this space of process ids (a container has its own); empty where the
    system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def process_lives(pid: int, start: str | None) -> bool:
    """Whether the process of this id that started then may still run. Whether there is one at all a signal
    says, which cannot be hidden (/proc may hide others' processes); a reused id its start."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    now = process_start(pid)
    return now is None or now == start or (now != ENDED and start in (None, "alive"))


ENDED = "ended"
"""The start of a process that has ended and waits to be reaped."""


def process_start(pid: int) -> str | None:
    """When a process started, in the kernel's own count, so that a reused id is not mistaken; None where the
    kernel does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return ENDED if fields[0] in ("Z", "X") else fields[19]


def _numbers(folder: JobFolder) -> list[int]:
    return sorted(int(name) for name in names(folder.attempts) if _NUMBER.fullmatch(name))


def _read(folder: JobFolder, number: int) -> Attempt:
    path = folder.attempts / f"{number:04d}"
    try:
        return Attempt(path, number, read_json(path / "attempt.json"))
    except FileNotFoundError:
        return Attempt(path, number, {"attempt": number, "error": "attempt.json is damaged"})
    except DamagedFile as error:
        return Attempt(path, number, {"attempt": number, "error": str(error)})
