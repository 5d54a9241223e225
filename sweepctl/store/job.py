"""One job's folder.

job.json                     the science, written by the job when it starts, never changed
wanted/step-N.BRANCH.SWEEP   a trunk's wishes: checkpoint step N, for that branch, asked by that sweep;
                             in it, what that sweep keeps of checkpoints that are no longer needed
attempts/0001/               one execution each
checkpoints/step-N/          complete once it has this name
result.json                  a branch's or run's end; a trunk's only where it diverged
evaluations/HASH.json        further losses of the final weights
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweepctl.errors import DamagedFile
from sweepctl.store.files import create, names, read_bytes, read_json, storage, write_json, write_text
from sweepctl.store.result import Result

_WISH = re.compile(r"step-(\d{8,})\.([0-9a-f]+)\.(.+)")


@dataclass(frozen=True, slots=True)
class Wish:
    """A trunk is wanted to checkpoint a step."""

    step: int
    """Where."""
    branch: str
    """For whom."""
    sweep: str
    """Who asked."""

    @property
    def file(self) -> str:
        return f"step-{self.step:08d}.{self.branch}.{self.sweep}"


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Paths and small records of one job. Attempts and checkpoints have modules of their own."""

    path: Path
    """The folder."""
    id: str
    """The job's id."""
    end: int | None = None
    """The step that its result ends at; None where that is not known."""

    @property
    def attempts(self) -> Path:
        return self.path / "attempts"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def sibling(self, job_id: str) -> JobFolder:
        """Another job of the same store."""
        return JobFolder(self.path.parent.parent / job_id[:2] / job_id, job_id)

    def record(self) -> dict[str, Any] | None:
        """The science in job.json, None where the job never started."""
        try:
            return read_json(self.path / "job.json")
        except FileNotFoundError:
            return None

    def write_record(self, science: dict[str, Any]) -> None:
        """Write the science once.

        Raises:
            DamagedFile: another science already has this folder.
        """
        try:
            written = self.record()
        except DamagedFile:
            written = None
        if written is None:
            with storage(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / "job.json", science)
        elif written != science:
            raise DamagedFile(f"{self.path / 'job.json'} is not the science this job was asked to train.")

    def result(self) -> Result | None:
        """result.json, None where there is none, or it is damaged or another job's (this one then writes it
        again).

        Raises:
            StorageError: it cannot be read now, which does not say that it is not there.
        """
        try:
            result = Result.read(read_json(self.path / "result.json"))
        except (FileNotFoundError, DamagedFile):
            return None
        return result if result is not None and result.is_of(self.id, self.end) else None

    def has_result(self) -> bool:
        return self.result() is not None

    def write_result(self, result: Result) -> None:
        write_json(self.path / "result.json", replace(result, job=self.id).record())

    def wishes(self) -> list[Wish]:
        """Every wish, in rising order of step."""
        matches = (_WISH.fullmatch(name) for name in names(self.path / "wanted"))
        return sorted(
            (Wish(int(m[1]), m[2], m[3]) for m in matches if m), key=lambda w: (w.step, w.branch, w.sweep)
        )

    def wish(self, wish: Wish, durable: bool = True, keep: str = "all") -> bool:
        """Add a wish; False where it was there. One that is not durable needs its folder synced."""
        path = self.path / "wanted" / wish.file
        new = create(path, durable)
        if ("all" if new else self._kept_by(wish)) != keep:
            write_text(path, "" if keep == "all" else keep)
        return new

    def keeps(self) -> set[str]:
        """The retention policies of the sweeps that made wishes."""
        return {self._kept_by(wish) for wish in self.wishes()}

    def _kept_by(self, wish: Wish) -> str:
        try:
            policy = read_bytes(self.path / "wanted" / wish.file).decode(errors="replace").strip()
        except FileNotFoundError:
            return "none"
        except IsADirectoryError:
            return "all"
        return policy if policy in ("none", "last") else "all"

    def withdraw(self, sweep: str, branches: set[str], saved: Container[int] = ()) -> int:
        """Remove a sweep's wishes for the given branches, but those whose step is in `saved`; the number
        removed."""
        gone = [w for w in self.wishes() if w.sweep == sweep and w.branch in branches and w.step not in saved]
        with storage(self.path / "wanted"):
            for wish in gone:
                (self.path / "wanted" / wish.file).unlink(missing_ok=True)
        return len(gone)
