"""What others may read and not change: from it follows what is run under a user's name.

A workspace is shared by a team, so who can write a file there could have a colleague's task run anything.
What a task runs is taken from files of its own user alone, which nobody else can write.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO, Any

from sweepctl.errors import DamagedFile, RequestError
from sweepctl.store.files import json_object, reading, storage

READABLE = 0o644
"""The mode of a file that others may read."""
PRIVATE = 0o600
"""The mode of a file that nobody else may read."""
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def owner(path: Path) -> int:
    """The id of the user whose file this is, as the file system says it."""
    return path.lstat().st_uid


def is_own(path: Path) -> bool:
    """Whether a file is this user's, and nobody else can have written it; not of one that is absent."""
    try:
        return _is_own(path.lstat())
    except OSError:
        return False


def protected_folder(folder: Path) -> Path:
    """Make a folder in which this user alone can write.

    Raises:
        RequestError: there is one that is somebody else's.
        StorageError: it cannot be made.
    """
    with storage(folder):
        share(folder.parent)
        folder.mkdir(mode=0o755, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise RequestError(f"{folder} is not yours: its owner (user {status.st_uid}) must remove it.")
        if status.st_mode & _BY_OTHERS:
            folder.chmod(stat.S_IMODE(status.st_mode) & ~_BY_OTHERS)
    return folder


def share(folder: Path) -> None:
    """Make a folder for the folders of several users, in which nobody may rename those of others."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_ISVTX)


def read_own_json(path: Path) -> dict[str, Any]:
    """A JSON object out of a file of this user's that nobody else can have written.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it may be somebody else's word, or is no JSON object.
    """
    if path.is_symlink():
        raise DamagedFile(f"{path} is a link: what it says is not run.")
    with reading(path), open(path, "rb", opener=_no_link) as file:
        if not _is_own(os.fstat(file.fileno())):
            raise DamagedFile(f"{path} can have been written by somebody else: what it says is not run.")
        return json_object(file.read(), path)


def append_to(path: Path) -> IO[str]:
    """Open a file to write at its end; not by a link, by which somebody could have us write elsewhere.

    Raises:
        StorageError: it is a link, or cannot be written.
    """
    with storage(path):
        return open(path, "a", opener=_no_link)


def _no_link(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)


def _is_own(status: os.stat_result) -> bool:
    return status.st_uid == os.getuid() and not status.st_mode & _BY_OTHERS
