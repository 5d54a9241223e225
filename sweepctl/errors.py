"""The errors a user sees: one sentence each, and the exit code that goes with it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SweepctlError(Exception):
    """Base of every error that is shown as one sentence instead of a traceback."""

    exit_code = 1


class RequestError(SweepctlError):
    """What was asked for is wrong: a bad override, a missing file, an unknown name. Nothing was written."""

    exit_code = 2


class InvalidValue(RequestError):
    """A key has a value it cannot have."""

    def __init__(self, key: str, value: object, valid: str) -> None:
        self.key, self.value, self.valid = key, value, valid
        super().__init__(f"{key}={_shown(value)} is not valid: it must be {valid}.")

    def under(self, prefix: str) -> InvalidValue:
        """The same complaint about the key as it is written one level further out."""
        return InvalidValue(f"{prefix}.{self.key}" if self.key else prefix, self.value, self.valid)


class StorageError(SweepctlError):
    """The file system refused: full, read-only, not ours."""


class MachineFailed(SweepctlError):
    """A machine did not do its part: it may go well on another."""


class DamagedFile(SweepctlError):
    """A file in the workspace is not what was written there."""


class WorkFailed(SweepctlError):
    """The request was fine, the work did not succeed."""


def unknown_name(kind: str, name: str, names: Iterable[str], where: str = "") -> RequestError:
    """An error that names what was asked for, the closest name that exists, and all the valid ones; `where`
    says among what."""
    valid = sorted(names)
    close = get_close_matches(name, valid, n=1) or [
        longer for longer in valid if longer.startswith(f"{name}_")
    ]
    hint = f" Did you mean {close[0]}?" if close else ""
    listed = ", ".join(valid[:20]) + (", ..." if len(valid) > 20 else "")
    return RequestError(f"There is no {kind} {name!r}{where}.{hint} Known: {listed or 'none'}.")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
