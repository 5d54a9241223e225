"""What a login shell says of Slurm: SBATCH_ variables count where the launcher's file says nothing.

They become settings, so that they are recorded, and hold for what tasks submit later. Inside a job they are
that job's, and do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sweepctl.launch.slurm.settings import SlurmSettings

RESOURCES = ("account", "partition", "qos", "constraint")
OPTIONS = ("reservation", "wckey", "exclusive", "hint", "network")
"""What a shell may give, of resources and as further options."""
ELSEWHERE = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS", "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
"""Which cluster, and as whom: every command of Slurm's is given these."""
SECRETS = ("SLURM_JWT",)


@dataclass(frozen=True, slots=True)
class Shell:
    """What variables of a shell mean for a launcher's settings."""

    settings: SlurmSettings
    """The settings with what the shell gives."""
    in_force: tuple[str, ...] = ()
    """Variables that count, with their values where these are no secrets."""
    overruled: tuple[str, ...] = ()
    """Those that the launcher's file has another value for."""
    unused: tuple[str, ...] = ()
    """SBATCH_ variables that nothing is made of."""


def read_shell(settings: SlurmSettings, environment: Mapping[str, str]) -> Shell:
    """The settings as they are in this environment."""
    named = {name: value for name, value in environment.items() if value != "" or name == "SBATCH_EXCLUSIVE"}
    if "SLURM_JOB_ID" in named:
        return Shell(settings)
    in_force = [name if name in SECRETS else f"{name}={named[name]}" for name in ELSEWHERE if name in named]
    overruled: list[str] = []
    resources: dict[str, Any] = {}
    options: dict[str, str | bool] = {}
    for key in (*RESOURCES, *OPTIONS):
        name = f"SBATCH_{key.upper()}"
        if name not in named:
            continue
        own = getattr(settings.resources, key) if key in RESOURCES else settings.sbatch.get(key)
        if own is not None or key in settings.sbatch:
            overruled.append(f"{name}={named[name]}")
            continue
        in_force.append(f"{name}={named[name]}")
        if key in RESOURCES:
            resources[key] = named[name]
        else:
            options[key] = named[name] or True
    used = {*ELSEWHERE, *(f"SBATCH_{key.upper()}" for key in (*RESOURCES, *OPTIONS))}
    unused = sorted(name for name in named if name.startswith("SBATCH_") and name not in used)
    return Shell(
        replace(
            settings,
            resources=replace(settings.resources, **resources),
            sbatch={**settings.sbatch, **options},
        ),
        tuple(in_force),
        tuple(overruled),
        tuple(unused),
    )
