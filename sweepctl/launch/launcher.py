"""Which launcher a file of `launchers/` describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sweepctl.errors import InvalidValue
from sweepctl.spec.build import build

if TYPE_CHECKING:
    from sweepctl.launch.local import LocalSettings
    from sweepctl.launch.slurm.settings import SlurmSettings


def read_launcher(name: str, raw: dict[str, Any]) -> LocalSettings | SlurmSettings:
    """The settings that a file of `launchers/` describes.

    Raises:
        RequestError: its kind is neither local nor slurm, or a key or value is not valid.
    """
    from sweepctl.launch.local import LocalSettings
    from sweepctl.launch.slurm.settings import SlurmSettings

    kind = raw.get("kind")
    if kind == "slurm":
        return build(SlurmSettings, raw)
    if kind == "local":
        return build(LocalSettings, raw)
    raise InvalidValue("kind", kind, f"local or slurm in launcher {name}")
