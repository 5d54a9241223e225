"""Files that are whole or not there: atomic writes, exclusive creation, and errors a user can act on."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweepctl.errors import DamagedFile, StorageError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
}


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turns the file system's refusals into a StorageError that names the path and the reason."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0)
        if reason is None:
            raise
        raise StorageError(f"Cannot write {path}: {reason}. What was saved before is intact.") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what shall take a file's place in one step, of its ending; gone where that fails."""
    scratch = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    with storage(path):
        try:
            yield scratch
            os.replace(scratch, path)
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink()


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Replace a file in one step; durable when this returns. Of the mode the umask takes its part."""
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with storage(path):
        try:
            _write_durably(scratch, text, mode)
            os.replace(scratch, path)
            sync_folder(path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                scratch.unlink()
            raise


def write_json(path: Path, value: Any, mode: int = 0o666) -> None:
    """`write_text` of readable JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", mode)


def create(path: Path, durable: bool = True) -> bool:
    """Make an empty file that must not exist yet; False where somebody else made it first."""
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return False
        if durable:
            sync_folder(path.parent)
        return True


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is not a JSON object.
    """
    try:
        with open(path, "rb") as file:  # a text file takes a quarter longer: it tells with ten thousand
            value = json.loads(file.read().decode())
    except (ValueError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path} is damaged: {error}.") from None
    if not isinstance(value, dict):
        raise DamagedFile(f"{path} is damaged: not a JSON object.")
    return value


def sync_folder(folder: Path) -> None:
    """Make renames and creations in a folder durable, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _write_durably(path: Path, text: str, mode: int) -> None:
    with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
