"""Calls of the operating system that fail."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CALLS = ("open", "stat", "lstat", "listdir", "scandir", "mkdir", "rename", "replace", "fsync", "chmod")


class Refusals:
    """Lets calls of the operating system fail that touch a folder: the one of number `at`, before it is made
    or, `lost`, when it is done and only its answer is missing."""

    def __init__(self, folder: Path, at: int, code: int, lost: bool = False) -> None:
        self.folder, self.at, self.code, self.lost = str(folder), at, code, lost
        self.calls = 0
        self.refused: str | None = None

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(*args: Any, **options: Any) -> Any:
            path = args[0] if args else "."
            if call is not real_fsync and not (
                isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.folder)
            ):
                return call(*args, **options)
            self.calls += 1
            if self.calls != self.at:
                return call(*args, **options)
            self.refused = f"{call.__name__} {path}"
            answer = call(*args, **options) if self.lost else None
            if hasattr(answer, "close"):
                answer.close()
            raise OSError(self.code, os.strerror(self.code), str(path))

        return refusing

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self.wrap(getattr(os, name)))
            patch.setattr(builtins, "open", self.wrap(open))
            patch.setattr(io, "open", self.wrap(io.open))
            yield


real_fsync = os.fsync
