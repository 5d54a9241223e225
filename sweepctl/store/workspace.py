"""The workspace: one store shared by all sweeps, prepared data, and a folder a sweep.

<workspace>/store/ab/<job id>/     one job
<workspace>/data/<corpus>/         prepared shards
<workspace>/<sweep>/               plans, tables, fits, predictions
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweepctl.errors import DamagedFile, InvalidValue, RequestError, StorageError, SweepctlError, unknown_name
from sweepctl.plan.plan import Plan, load
from sweepctl.spec import hashing
from sweepctl.spec.hashing import is_digest
from sweepctl.spec.study import check_name, is_name
from sweepctl.store.files import create, exists, names, read_bytes, read_json, storage, write_json, write_text
from sweepctl.store.job import JobFolder

HOME_VARIABLE = "SWEEPCTL_HOME"
FINISHED = "finished"
"""In a sweep's folder: ids of jobs that tasks saw finished, a line each."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The root folder. Nothing here lists the whole store."""

    root: Path
    """The folder."""

    @classmethod
    def default(cls) -> Workspace:
        """$SWEEPCTL_HOME, or ./sweeps."""
        root = Path(os.environ.get(HOME_VARIABLE) or "sweeps").absolute()
        if re.search(r"[\x00-\x1f\x7f]", str(root)):  # it is a line of scripts, and a word of what is shown
            raise InvalidValue(HOME_VARIABLE, str(root), "a path without line ends and control characters")
        return cls(root)

    def job(self, job_id: str) -> JobFolder:
        return JobFolder(Path(f"{self.root}/store/{job_id[:2]}/{job_id}"), job_id)

    def has_job(self, job_id: str) -> bool:
        """Whether the job has a folder: a single look, for plans of a hundred thousand jobs."""
        return os.path.isdir(f"{self.root}/store/{job_id[:2]}/{job_id}")

    def corpus(self, name: str) -> Path:
        return self.root / "data" / name

    def sweep(self, name: str) -> Sweep:
        """The sweep's folder, which need not exist yet."""
        check_name("name", name)
        return Sweep(self, name)

    def known_sweep(self, name: str) -> Sweep:
        """A sweep that has been planned.

        Raises:
            RequestError: it has not.
        """
        sweep = self.sweep(name)
        if not exists(sweep.pointer):
            raise unknown_name("sweep", name, self.sweep_names())
        return sweep

    def read_sweep(self, name: str, out: Path | None) -> Sweep:
        """A sweep that has been planned, to be read; what is made of it goes to `out`, else beside its plans.

        Raises:
            RequestError: it has not been planned.
            StorageError: that folder cannot be written.
        """
        sweep = replace(self.known_sweep(name), elsewhere=None if out is None else out.absolute())
        if out is None and not os.access(sweep.folder, os.W_OK):
            raise StorageError(f"You may only read {sweep.folder}: say with --out FOLDER where results go.")
        with storage(sweep.results):
            sweep.results.mkdir(parents=True, exist_ok=True)
        return sweep

    def sweep_names(self) -> list[str]:
        """Every sweep with a current plan. What else lies in the workspace is none of ours."""
        return sorted(name for name in names(self.root) if is_name(name) and self._may_be_sweep(name))

    def _may_be_sweep(self, name: str) -> bool:
        try:
            return exists(self.root / name / "current.json")
        except StorageError:  # a colleague's, which is private
            return True

    def wanted_elsewhere(self, but: str) -> Wanted:
        """What other sweeps want. One that cannot be read stops nobody."""
        wanted = Wanted(set(), {})
        for name in self.sweep_names():
            if name != but:
                self.sweep(name).add_to(wanted)
        return wanted

    def pointers(self) -> tuple[tuple[str, int], ...]:
        """Changes whenever any sweep is planned."""
        changes = []
        for name in self.sweep_names():
            with contextlib.suppress(OSError):
                changes.append((name, self.sweep(name).pointer.stat().st_mtime_ns))
        return tuple(changes)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The jobs that sweeps want."""

    jobs: set[str]
    """Their ids."""
    unread: dict[str, str]
    """Sweeps that may want more -> why that cannot be read."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep's folder. `current.json` names the plan of every stage, in the order they were planned."""

    workspace: Workspace
    """Where it lies."""
    name: str
    """Of its folder."""
    elsewhere: Path | None = None
    """Where its tables, fits and pictures are written by who may only read it; None: in its folder."""

    @property
    def folder(self) -> Path:
        return self.workspace.root / self.name

    @property
    def results(self) -> Path:
        """Where tables, fits and pictures are written."""
        return self.elsewhere or self.folder

    @property
    def pointer(self) -> Path:
        return self.folder / "current.json"

    def stage_hashes(self) -> dict[str, str]:
        """Stage -> hash of its current plan; empty for a sweep that was never planned."""
        return self._pointed("stages")

    def waiting_stages(self) -> list[str]:
        """Stages that cannot be planned before others have results."""
        return list(self._pointed("waiting"))

    def waiting_hashes(self) -> dict[str, str]:
        """Stage -> hash of its last plan, for waiting stages that had one."""
        return {stage: digest for stage, digest in self._pointed("waiting").items() if digest}

    def last_hashes(self) -> dict[str, str]:
        """Stage -> hash of its last plan, current or waiting; empty where the pointer is damaged."""
        try:
            return self.waiting_hashes() | self.stage_hashes()
        except DamagedFile:
            return {}

    def _pointed(self, what: str) -> dict[str, Any]:
        try:
            pointed = read_json(self.pointer).get(what, {})
            if isinstance(pointed, list):  # older versions named the waiting stages only
                pointed = dict.fromkeys(pointed)
            plans = set(pointed.values()) - ({None} if what == "waiting" else set())
            if all(map(is_digest, plans)):
                return dict(pointed)
        except FileNotFoundError:
            return {}
        except (DamagedFile, AttributeError, TypeError):
            pass
        raise DamagedFile(f"{self.pointer} is damaged; plan the sweep {self.name} again.")

    def job_ids(self) -> set[str]:
        """Every job that the sweep wants, of stages that wait too."""
        hashes = [*self.stage_hashes().values(), *self.waiting_hashes().values()]
        return {job.id for digest in hashes for job in self.plan(digest).jobs}

    def add_to(self, wanted: Wanted) -> None:
        """Add what this sweep wants; where its plans are damaged, what is left of them names."""
        try:
            wanted.jobs.update(self.job_ids())
        except SweepctlError as error:
            wanted.jobs.update(self._ids_left())
            wanted.unread[self.name] = str(error)

    def _ids_left(self) -> set[str]:
        ids: set[str] = set()
        with contextlib.suppress(SweepctlError):
            for file in names(self.folder / "plans"):
                with contextlib.suppress(SweepctlError, OSError):
                    text = read_bytes(self.folder / "plans" / file).decode(errors="replace")
                    ids.update(re.findall(r'"([0-9a-f]{16})"', text))
        return ids

    def plan(self, digest: str) -> Plan:
        """A plan by its hash.

        Raises:
            RequestError: the file is missing.
            DamagedFile: it is not what was written.
            StorageError: it cannot be read now.
        """
        path = self.folder / "plans" / f"{digest}.json"
        try:
            text = read_bytes(path).decode()
        except FileNotFoundError:
            raise RequestError(f"{path} is missing; plan the sweep again.") from None
        except (UnicodeDecodeError, IsADirectoryError):
            text = ""
        if hashing.digest(text) != digest:
            raise DamagedFile(f"{path} is not what was written; plan the sweep again.")
        return load(text, str(path))

    def plans(self) -> dict[str, Plan]:
        """The current plan of every stage, in order."""
        return {stage: self.plan(digest) for stage, digest in self.stage_hashes().items()}

    def past_plans(self) -> list[Plan]:
        """Every plan ever written for this sweep, current ones included, that can be read."""
        plans = []
        for digest in sorted(self.plan_hashes()):
            with contextlib.suppress(DamagedFile, StorageError):
                plans.append(self.plan(digest))
        return plans

    def plan_hashes(self) -> set[str]:
        """The hashes of every plan ever written for this sweep."""
        files = map(os.path.splitext, names(self.folder / "plans"))
        return {digest for digest, ending in files if ending == ".json" and is_digest(digest)}

    def mark_cancelled(self, jobs: Iterable[str]) -> None:
        """Tell whoever trains these jobs for this sweep to stop."""
        for job in jobs:
            create(self.folder / "cancelled" / job, durable=False)

    def cancelled(self) -> set[str]:
        """Jobs that were cancelled since the last launch."""
        return set(names(self.folder / "cancelled"))

    def uncancel(self) -> None:
        """Forget what was cancelled: a launch asks for everything again."""
        with storage(self.folder / "cancelled"):
            for job in self.cancelled():
                (self.folder / "cancelled" / job).unlink(missing_ok=True)

    def note_finished(self, jobs: Iterable[str]) -> None:
        """Spare other tasks the look at these jobs, whose results are there."""
        with contextlib.suppress(OSError), open(self.folder / FINISHED, "a", encoding="utf-8") as file:
            file.write("".join(f"\n{job}\n" for job in jobs))

    def noted_finished(self) -> set[str]:
        """Jobs that tasks saw finished since the last launch; half a line is nobody's."""
        try:
            lines = (self.folder / FINISHED).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return set()
        return set(lines)

    def forget_finished(self) -> None:
        """A launch may ask for some of them anew."""
        with contextlib.suppress(OSError):
            (self.folder / FINISHED).unlink(missing_ok=True)

    def save(self, plans: dict[str, Plan], waiting: Iterable[str] = ()) -> None:
        """Write the plans and make them the current ones, in one step.

        Of a stage in `waiting`, whose values are not there yet, the last plan, if it had one, goes on being
        wanted but is not launched.
        """
        with storage(self.folder):
            (self.folder / "plans").mkdir(parents=True, exist_ok=True)
        for plan in plans.values():
            path = self.folder / "plans" / f"{plan.hash}.json"
            if not exists(path) or read_bytes(path) != plan.text.encode():
                write_text(path, plan.text)
        before = self.last_hashes()
        pointed = {
            "stages": {stage: plan.hash for stage, plan in plans.items()},
            "waiting": {stage: before.get(stage) for stage in waiting},
        }
        with contextlib.suppress(FileNotFoundError, DamagedFile):
            if read_json(self.pointer) == pointed:
                return
        write_json(self.pointer, pointed)
