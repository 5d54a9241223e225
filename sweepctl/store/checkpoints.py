"""Checkpoints: a folder of files with sizes and hashes, complete once it carries its final name.

A checkpoint is written beside its place and renamed into it, so a name never stands for half a
checkpoint. Its manifest names the job, the attempt that wrote it and the checkpoint that attempt started
from: readers can follow one lineage back to the first step.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweepctl.errors import DamagedFile, RequestError, StorageError
from sweepctl.spec.build import plain
from sweepctl.store.facts import Origin
from sweepctl.store.files import (
    file_hash,
    names,
    read_json,
    reading,
    storage,
    sync_file,
    sync_folder,
    write_json,
)
from sweepctl.store.job import JobFolder

DAMAGED = "damaged-"
"""What the name of a checkpoint begins with that was set aside."""
_STEP = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint of one job."""

    path: Path
    """Its folder."""
    job: str
    """Whose it is, by id."""
    step: int
    """The step it was saved at."""

    def manifest(self) -> dict[str, Any]:
        """What was written, by whom.

        Raises:
            DamagedFile: the manifest is missing or not one.
            RequestError: it belongs to another job.
        """
        try:
            manifest = read_json(self.path / "manifest.json")
        except FileNotFoundError:
            raise DamagedFile(f"{self.path} has no manifest.") from None
        if not _is_manifest(manifest):
            raise DamagedFile(f"{self.path / 'manifest.json'} is not a checkpoint's manifest.")
        if manifest["job"] != self.job or manifest["step"] != self.step:
            raise RequestError(
                f"{self.path} holds step {manifest['step']} of job {manifest['job']}, not step {self.step} "
                f"of job {self.job}; a checkpoint of another run cannot be used here. Move it away."
            )
        return manifest

    def check_owner(self) -> None:
        """Raises RequestError where the manifest is of another job or step; damage is not judged here, nor
        what cannot be read now."""
        with contextlib.suppress(DamagedFile, StorageError):
            self.manifest()

    def verify(self) -> dict[str, Any]:
        """Check every file's size and hash; the manifest where all is as written.

        Raises:
            DamagedFile: something is missing, cut short or changed.
            StorageError: something cannot be read now, which says nothing of what was written.
        """
        manifest = self.manifest()
        for name, facts in manifest["files"].items():
            file = self.path / name
            try:
                with reading(file):
                    size, digest = file.stat().st_size, None
                    if size == facts["bytes"]:
                        digest = file_hash(file)
            except (FileNotFoundError, IsADirectoryError):
                raise DamagedFile(f"{file} is missing.") from None
            if digest != facts["sha256"]:
                raise DamagedFile(f"{file} is not what was written: its size or hash differs.")
        return manifest

    @property
    def bytes(self) -> int:
        """Size on disk by the manifest."""
        return sum(facts["bytes"] for facts in self.manifest()["files"].values())


def _is_manifest(manifest: dict[str, Any]) -> bool:
    """Whether it has what is read of one, of the kind that is written. Names are of files beside it."""
    files = manifest.get("files")
    return (
        isinstance(manifest.get("job"), str)
        and all(_is_count(manifest.get(name)) for name in ("step", "attempt"))
        and isinstance(files, dict)
        and all(
            name == os.path.basename(name)
            and isinstance(facts, dict)
            and _is_count(facts.get("bytes"))
            and isinstance(facts.get("sha256"), str)
            for name, facts in files.items()
        )
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def steps(folder: JobFolder) -> list[int]:
    """Steps of the complete checkpoints, rising."""
    return steps_among(names(folder.checkpoints))


def steps_among(files: Iterable[str]) -> list[int]:
    """Steps of the complete checkpoints among the names in a job's folder of them, rising."""
    return sorted(int(match[1]) for match in map(_STEP.fullmatch, files) if match)


def at(folder: JobFolder, step: int) -> Checkpoint:
    """The checkpoint of a step, whether or not it exists."""
    return Checkpoint(folder.checkpoints / f"step-{step:08d}", folder.id, step)


def newest(folder: JobFolder, last: int | None = None, own: bool = False) -> Checkpoint | None:
    """The newest checkpoint at or before `last` that is as it was written.

    A damaged one is passed over; in the folder of one's `own` job it is set aside (renamed, kept for
    inspection).

    Raises:
        StorageError: one cannot be read now.
    """
    for step in reversed(steps(folder)):
        if last is not None and step > last:
            continue
        checkpoint = at(folder, step)
        try:
            checkpoint.verify()
        except DamagedFile:
            if own:
                set_aside(checkpoint)
            continue
        return checkpoint
    return None


def set_aside(checkpoint: Checkpoint) -> None:
    """Rename a damaged checkpoint so that its name is free again."""
    aside = checkpoint.path.with_name(f"{DAMAGED}{checkpoint.path.name}-{uuid.uuid4().hex[:6]}")
    with storage(checkpoint.path), contextlib.suppress(FileNotFoundError):
        os.rename(checkpoint.path, aside)


def save(
    folder: JobFolder,
    step: int,
    attempt: int,
    parent: Origin | None,
    write: Callable[[Path], None],
    still_owner: Callable[[], bool],
) -> Checkpoint:
    """Write a checkpoint: `write` puts the files into the folder it is given.

    Durable when this returns. Where a complete checkpoint of the step is there already it stays, and
    where `still_owner` says no just before the rename, nothing is put in place.

    Raises:
        StorageError: the file system refused; older checkpoints are untouched.
    """
    target = at(folder, step)
    scratch = folder.checkpoints / f".{target.path.name}.{attempt:04d}.{uuid.uuid4().hex[:6]}"
    with storage(target.path):
        try:
            scratch.mkdir(parents=True)
            write(scratch)
            files = {}
            mode = scratch.stat().st_mode & 0o666  # the umask's word, which libraries may not have heeded
            for file in sorted(scratch.iterdir()):
                with contextlib.suppress(PermissionError):
                    file.chmod(mode)
                sync_file(file)
                files[file.name] = {"bytes": file.stat().st_size, "sha256": file_hash(file)}
            manifest = {
                "job": folder.id,
                "step": step,
                "attempt": attempt,
                "parent": plain(parent),
                "files": files,
            }
            write_json(scratch / "manifest.json", manifest)
            if still_owner():
                _put_in_place(scratch, target)
        except (FileNotFoundError, StorageError):
            # A new owner sweeps our scratch away; then there is nothing to be put in place.
            if still_owner():
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def _put_in_place(scratch: Path, target: Checkpoint) -> None:
    """Rename a checkpoint into its name. After an error the target says what came of it: its answer may be
    what was lost."""
    try:
        os.rename(scratch, target.path)
        sync_folder(target.path.parent)
        sync_folder(target.path.parent.parent)
    except OSError as error:
        try:
            target.verify()
        except DamagedFile:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise error from None
            set_aside(target)
            os.rename(scratch, target.path)
            sync_folder(target.path.parent)


def remove(checkpoint: Checkpoint) -> None:
    """Delete a checkpoint: renamed out of its name first, so that no reader finds half of it."""
    gone = checkpoint.path.with_name(f".{checkpoint.path.name}.gone.{uuid.uuid4().hex[:6]}")
    with storage(checkpoint.path):
        try:
            os.rename(checkpoint.path, gone)
        except FileNotFoundError:
            return
    shutil.rmtree(gone, ignore_errors=True)


def sweep_scratch(folder: JobFolder) -> None:
    """Delete what killed writers left half-written. Only for the job's owner."""
    for name in names(folder.checkpoints):
        if name.startswith("."):
            shutil.rmtree(folder.checkpoints / name, ignore_errors=True)
