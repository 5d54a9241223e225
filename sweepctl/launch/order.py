"""What a launch asked for, frozen, for those who train it later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from sweepctl.launch.launcher import LaunchRequest
from sweepctl.launch.variables import names_only
from sweepctl.resources import code_version
from sweepctl.spec import hashing
from sweepctl.spec.build import plain
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.store.workspace import Sweep


@dataclass(frozen=True, slots=True)
class Order:
    """Editing a config or planning again does not change what was ordered."""

    plans: dict[str, str]
    """Stage -> hash of its plan."""
    held: tuple[str, ...]
    """Stages that were held back."""
    launcher: dict[str, Any]
    """The launcher's settings; of its variables the names alone."""
    code: str
    """The version of the code that ordered it."""

    @classmethod
    def of(cls, request: LaunchRequest, settings: Any) -> Self:
        """The order that a request comes to with a launcher's settings."""
        sweep_jobs, held = request.sweep_jobs, request.held_stages
        hashes = sweep_jobs.sweep.stage_hashes()
        plans = {stage: plan.hash for stage, plan in sweep_jobs.plans.items()}
        return cls(
            plans=plans | {stage: hashes[stage] for stage in held},
            held=tuple(held),
            launcher=names_only(plain(settings)),
            code=code_version(),
        )

    @property
    def hash(self) -> str:
        return hashing.digest(hashing.canonical(plain(self)))

    def sweep_jobs(self, sweep: Sweep) -> SweepJobs:
        """The jobs of the order."""
        plans = {stage: sweep.plan(digest) for stage, digest in self.plans.items()}
        sweep_jobs = SweepJobs(
            sweep, {stage: plan for stage, plan in plans.items() if stage not in self.held}
        )
        for stage in self.held:
            sweep_jobs.leave_out({job.id for job in plans[stage].observations()})
        return sweep_jobs
