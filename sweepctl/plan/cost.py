"""What a plan costs: tokens, FLOPs and disk, by rung and in all, and what forking saves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sweepctl.plan.plan import Job, Plan, Rung
from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.science import Point
from sweepctl.spec.weights import distinct_weights

FP32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """What a set of jobs costs."""

    jobs: int = 0
    """How many."""
    observations: int = 0
    """Of them, those that end in a loss."""
    tokens: int = 0
    """Trained with forks."""
    tokens_from_scratch: int = 0
    """What every budget on its own would train."""
    flops: float = 0.0
    """Training FLOPs under the plan's accounting."""
    flops_exact: float = 0.0
    """Every matrix product."""
    checkpoints: int = 0
    """That stay."""
    disk_all: int = 0
    """Bytes, where all of them stay."""
    disk_last: int = 0
    """Bytes, where of each job the last stays."""

    @property
    def saving(self) -> float:
        """How many times fewer tokens than from scratch."""
        return self.tokens_from_scratch / self.tokens if self.tokens else 1.0


def by_rung(plan: Plan) -> list[tuple[Rung, list[Job], Cost]]:
    """Rungs in the plan's order with their jobs and cost; rungs without jobs are left out."""
    jobs: dict[int, list[Job]] = {}
    for job in plan.jobs:
        jobs.setdefault(plan.points[job.point].rung, []).append(job)
    return [(plan.rungs[i], jobs[i], _cost(plan, jobs[i], {})) for i in sorted(jobs)]


def total(plan: Plan, jobs: list[Job] | None = None, reached: Mapping[str, int] | None = None) -> Cost:
    """The sum over jobs, all of the plan's by default; of those in `reached`, what lies beyond that step."""
    return _cost(plan, list(plan.jobs) if jobs is None else jobs, reached or {})


def sum_costs(costs: Iterable[Cost]) -> Cost:
    """Field by field."""
    whole = Cost()
    for cost in costs:
        whole = Cost(*(getattr(whole, f.name) + getattr(cost, f.name) for f in fields(Cost)))
    return whole


def cost_of_plans(plans: Iterable[Plan]) -> Cost:
    """The sum over plans, where a job that several of them want counts once, a trunk at its longest."""
    costs = []
    ends: dict[str, int] = {}
    for plan in plans:
        jobs = [job for job in plan.jobs if job.end > ends.get(job.id, -1)]
        cost = _cost(plan, jobs, {job.id: ends[job.id] for job in jobs if job.id in ends})
        counted = sum(job.id in ends for job in jobs)
        costs.append(dataclasses.replace(cost, jobs=cost.jobs - counted))
        ends |= {job.id: job.end for job in jobs}
    return sum_costs(costs)


def _cost(plan: Plan, jobs: list[Job], reached: Mapping[str, int]) -> Cost:
    tokens = scratch = cuts = finals = disk_all = disk_last = 0
    flops = exact = 0.0
    rates: dict[tuple[Any, ...], tuple[int, int, int]] = {}
    sized_by = ["optimizer.name"]
    sized_by += [f"optimizer.{key}" for kind in Optimizer.kinds().values() for key in kind.sized_by]
    for job in jobs:
        counts, batch = plan.counts(job), plan.batch_tokens(job)
        settings = plan.points[job.point].settings
        size = counts, *(settings.get(path) for path in sized_by)
        if size not in rates:
            per_token = counts.flops_per_token(plan.accounting)
            rates[size] = per_token, counts.exact_flops_per_token, checkpoint_bytes(plan.point(job.point))
        per_token, per_token_exact, checkpoint = rates[size]
        first = reached.get(job.id, job.cut or 0 if job.kind == "branch" else 0)
        trained = max(0, job.end - first) * batch
        tokens += trained
        flops += float(trained) * per_token
        exact += float(trained) * per_token_exact
        if job.kind == "trunk":
            saved = len({branch.cut for branch in plan.branches[job.id] if branch.cut})
            cuts += saved
            disk_all += saved * checkpoint
            disk_last += checkpoint if saved else 0
        else:
            scratch += job.end * batch
            finals += 1
            disk_all += FP32_BYTES * counts.total
            disk_last += FP32_BYTES * counts.total
    return Cost(
        jobs=len(jobs),
        observations=finals,
        tokens=tokens,
        tokens_from_scratch=scratch,
        flops=flops,
        flops_exact=exact,
        checkpoints=cuts + finals,
        disk_all=disk_all,
        disk_last=disk_last,
    )


def checkpoint_bytes(point: Point) -> int:
    """Of a checkpoint to go on from: every parameter, and what its optimizer keeps of it, in fp32."""
    every = distinct_weights(point.shape, point.model, point.corpus.vocab_size, point.batch.context)
    return sum(n * FP32_BYTES * (1 + point.optimizer.moments(w)) * w.elements for w, n in every)


def most_passes(plan: Plan) -> float:
    """How often the longest job reads the training data: above 1, tokens repeat."""
    longest = max((plan.tokens(job) for job in plan.jobs), default=0)
    return longest / plan.corpus_tokens if plan.corpus_tokens else 0.0
