"""How fast a rung trains on one device: as stated, or as its attempts measured."""

from __future__ import annotations

from dataclasses import dataclass

from sweepctl.plan.plan import Plan
from sweepctl.store import attempts
from sweepctl.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Rate:
    """Exact training FLOPs a second on one device. `least` where it was measured on a smaller rung: larger
    models use a device better, so the true rate is at least this."""

    flops_per_s: float
    least: bool = False


def measured(workspace: Workspace, plans: dict[str, Plan]) -> dict[str, Rate]:
    """Rung -> rate over all ended attempts of its trunks and runs. A rung without attempts gets that of the
    measured rung whose FLOPs a token are closest."""
    sums: dict[str, tuple[float, float]] = {}
    per_token: dict[str, int] = {}
    for plan in plans.values():
        for rung in plan.rungs:
            per_token[rung.name] = rung.counts.exact_flops_per_token
        for job in plan.jobs:
            if job.kind == "branch" or not workspace.has_job(job.id):
                continue
            for attempt in attempts.every(workspace.job(job.id)):
                tokens, seconds = attempt.record.get("trained_tokens"), attempt.record.get("train_s")
                if tokens and seconds:
                    name = plan.rung_of(job).name
                    flops, busy = sums.get(name, (0.0, 0.0))
                    each = plan.counts(job).exact_flops_per_token
                    sums[name] = (flops + float(tokens) * each, busy + seconds)
    known = {name: Rate(flops / busy) for name, (flops, busy) in sums.items()}
    if not known:
        return {}
    nearest = {each: min(known, key=lambda k: abs(per_token[k] - each)) for each in per_token.values()}
    return {
        name: known.get(name) or Rate(known[near].flops_per_s, per_token[near] < each)
        for name, each in per_token.items()
        for near in (nearest[each],)
    }
