"""Files that are whole or not there: atomic writes, exclusive creation, and errors a user can act on."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
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
    errno.EIO: "the disk, or the network to it, failed",
    errno.ESTALE: "the file server has lost it",
    errno.ETIMEDOUT: "the file server does not answer",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
}


TRANSIENT = frozenset(_REASONS) - {errno.EACCES, errno.EPERM}
"""Refusals that come of a file system only, wherever the error comes from."""


def refusal(error: OSError, path: Path, act: str = "write") -> StorageError:
    """What a file system would not do, as an error that names the path and the reason."""
    reason = _REASONS.get(error.errno or 0) or (error.strerror or str(error)).lower()
    intact = " What was saved before is intact." if act == "write" else ""
    return StorageError(f"Cannot {act} {path}: {reason}.{intact}")


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turns everything that the file system may answer to a write into a StorageError."""
    try:
        yield
    except OSError as error:
        raise refusal(error, path) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """The same for what is read, but that a file which is not there says so: a refusal never passes for
    absence, nor for damage.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        yield
    except (FileNotFoundError, IsADirectoryError):
        raise
    except OSError as error:
        raise refusal(error, path, "read") from error


def read_bytes(path: Path) -> bytes:
    """A file's content; nothing of what is no file but waits for a writer.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the file system refuses to say.
    """
    with reading(path), open(path, "rb", opener=without_waiting) as file:
        return file.read()


def exists(path: Path) -> bool:
    """Whether something is there.

    Raises:
        StorageError: the file system does not say.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise refusal(error, path, "read") from error
    return True


def names(folder: Path) -> list[str]:
    """What a folder holds, nothing where it is not there.

    Raises:
        StorageError: the file system does not say.
    """
    try:
        with reading(folder):
            return os.listdir(folder)
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what shall take a file's place in one step, of its ending; gone where that fails."""
    scratch = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    with storage(path):
        try:
            yield scratch
            written = scratch.stat()
            try:
                os.replace(scratch, path)
            except OSError:
                if not os.path.samestat(written, path.stat()):  # else only the answer was lost
                    raise
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink()


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Replace a file in one step; durable when this returns. Of the mode the umask takes its part.

    An answer may get lost on its way from a file server: after an error the file itself says whether it was
    replaced.
    """
    with replacing(path) as scratch:
        _write_durably(scratch, text, mode)
    with storage(path):
        try:
            sync_folder(path.parent)
        except OSError:
            if not _holds(path, text):
                raise


def write_json(path: Path, value: Any, mode: int = 0o666) -> None:
    """`write_text` of readable JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", mode)


def finite(value: Any) -> Any:
    """The same with None for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
        StorageError: the file system refuses to say.
    """
    try:
        return json_object(read_bytes(path), path)
    except IsADirectoryError as error:
        raise DamagedFile(f"{path} is damaged: {error}.") from None


def json_object(content: bytes, path: Path) -> dict[str, Any]:
    """What a file's content says. (A text file takes a quarter longer, which tells with many.)

    Raises:
        DamagedFile: it is not a JSON object.
    """
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
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


def file_hash(path: Path, offset: int = 0) -> str:
    """SHA-256 of a file, from a byte on."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(offset)
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _write_durably(path: Path, text: str, mode: int) -> None:
    with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
