"""A second user, where the tests are run by root."""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
CLONE_NEWNS = 0x00020000


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user may write: pytest's own are private."""
    if os.geteuid():
        pytest.skip("a second user needs root")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def as_nobody(act: Callable[[], Any], umask: int = 0o022, hidepid: bool = False) -> Any:
    """What a function comes to in a process of another user: its value, or the error that it raises. With
    `hidepid` that user sees no processes but their own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        if hidepid:
            ctypes.CDLL(None).unshare(CLONE_NEWNS)
            subprocess.run(["mount", "--make-rprivate", "/"], check=False)
            subprocess.run(["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"], check=False)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.umask(umask)
        try:
            value = act()
        except BaseException as error:
            value = error
        with os.fdopen(writer, "wb") as file:
            pickle.dump(value, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        value = pickle.load(file)
    os.waitpid(child, 0)
    return value
