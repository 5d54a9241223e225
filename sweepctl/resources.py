"""Where the built-in configuration lies: beside the package in a checkout, inside it once installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """The Hydra groups of studies."""
    return _found("conf")


def launchers_dir() -> Path:
    """One Hydra file a machine."""
    return _found("launchers")


def _found(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
