"""The package's own files: the built-in configuration, beside the package in a checkout and inside it once
installed, and which code this is."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """The Hydra groups of studies."""
    return _packaged("conf")


def launchers_dir() -> Path:
    """One Hydra file a machine."""
    return _packaged("launchers")


def _packaged(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


@cache
def code_version() -> str:
    """A hash of the package's sources: attempts of one job by different code can be told apart."""
    sources = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        sources.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    return sources.hexdigest()[:16]
