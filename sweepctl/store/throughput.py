"""How fast a rung trains on one device: as stated, or as its attempts measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sweepctl.plan.plan import Job, Plan
from sweepctl.store import attempts
from sweepctl.store.attempts import Attempt
from sweepctl.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one device trains."""

    flops_per_s: float
    """Exact training FLOPs a second."""
    least: bool = False
    """Measured on a smaller rung: larger models use a device better, so the true rate is at least this."""


def devices(attempt: Attempt) -> int:
    """How many devices it trains on at once."""
    return attempt.facts.world_size


class Speeds:
    """Sums over ended attempts of trunks and runs, by rung. A branch's are left out: it is short, and much of
    it is evaluation."""

    def __init__(self, plans: dict[str, Plan]) -> None:
        self._per_token = {r.name: r.counts.exact_flops_per_token for p in plans.values() for r in p.rungs}
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, plan: Plan, job: Job, job_attempts: Iterable[Attempt]) -> None:
        """Count a job's attempts."""
        for attempt in job_attempts if job.kind != "branch" else ():
            tokens, seconds = attempt.facts.trained_tokens, attempt.facts.train_s
            if tokens and seconds:
                name = plan.rung_of(job).name
                flops, busy = self._sums.get(name, (0.0, 0.0))
                each = plan.counts(job).exact_flops_per_token
                self._sums[name] = (flops + tokens * each, busy + seconds * devices(attempt))

    def rates(self) -> dict[str, Rate]:
        """Rung -> rate. A rung without attempts gets that of the measured rung whose FLOPs a token are
        closest; empty where nothing was measured."""
        per_token = self._per_token
        rates = {name: Rate(flops / busy) for name, (flops, busy) in self._sums.items()}
        if not rates:
            return {}
        nearest = {each: min(rates, key=lambda k: abs(per_token[k] - each)) for each in per_token.values()}
        return {
            name: rates.get(name) or Rate(rates[near].flops_per_s, per_token[near] < each)
            for name, each in per_token.items()
            for near in (nearest[each],)
        }


def measured(workspace: Workspace, plans: dict[str, Plan]) -> dict[str, Rate]:
    """Rung -> rate over all ended attempts of its trunks and runs."""
    speeds = Speeds(plans)
    for plan in plans.values():
        for job in plan.jobs:
            if job.kind != "branch" and workspace.has_job(job.id):
                speeds.add(plan, job, attempts.every(workspace.job(job.id)))
    return speeds.rates()
