"""How fast the attempts that run now get on, and when what is left will be there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sweepctl.store import metrics
from sweepctl.store.attempts import Attempt
from sweepctl.store.sweep_jobs import PlannedJob

SILENT_S = 120.0
"""How old the last sign of life may grow before it is worth a word: attempts beat every half second while
they train, and may take a minute to start or to compile."""


@dataclass(frozen=True, slots=True)
class Running:
    """An attempt that may be running."""

    planned_job: PlannedJob
    """The job."""
    step: int
    """How far it is."""
    flops_left: float
    """Exact training FLOPs that are left of it."""
    tokens_per_s: float | None
    """How fast it is; None where that is not known."""
    silent_s: float
    """How long ago it last said that it lives."""
    host: str
    """Where it runs."""
    devices: float = 1
    """How many devices it trains on at once."""

    @property
    def silent(self) -> bool:
        return self.silent_s > SILENT_S

    @property
    def flops_per_s(self) -> float:
        """0 where it is not known, or not believed any more."""
        if self.tokens_per_s is None or self.silent:
            return 0.0
        return self.tokens_per_s * self.planned_job.plan.counts(self.planned_job.job).exact_flops_per_token


def running(planned_job: PlannedJob, attempt: Attempt, step: int, flops_left: float, now: float) -> Running:
    """A running attempt, by its heartbeat and its newest metrics."""
    last = last_sign(attempt)
    rate = metrics.last_rate(attempt.metrics) or _mean_rate(attempt, last)
    host = attempt.facts.host or ""
    return Running(planned_job, step, flops_left, rate, max(0.0, now - last), host, attempt.facts.devices)


def last_sign(attempt: Attempt) -> float:
    """When the attempt last said that it lives: its heartbeat, else its claim."""
    try:
        return (attempt.path / "heartbeat.json").stat().st_mtime
    except OSError:
        return attempt.facts.started or attempt.path.stat().st_mtime


def _mean_rate(attempt: Attempt, last: float) -> float | None:
    """Since it started, for one that has not measured itself yet."""
    begun, started = attempt.facts.start_tokens, attempt.facts.started
    tokens = attempt.progress().get("tokens")
    if begun is None or not started or not tokens or last <= started or tokens <= begun:
        return None
    return float((tokens - begun) / (last - started))


def time_left(now_running: Sequence[Running], flops_left: float, after: dict[str, float]) -> float | None:
    """Seconds until `flops_left` is trained at the pace of what runs now; None where nothing is known to run.

    No chain of jobs is shared out: it takes at least as long as the slowest running job and the longest
    branch (`after`, FLOPs by trunk) that begins where it ends.
    """
    moving = [attempt for attempt in now_running if attempt.flops_per_s]
    if not moving:
        return None
    together = flops_left / sum(attempt.flops_per_s for attempt in moving)
    return max(
        together, *((r.flops_left + after.get(r.planned_job.job.id, 0.0)) / r.flops_per_s for r in moving)
    )


def mean_speed(now_running: Iterable[Running]) -> float | None:
    """FLOPs a second of one device that trains now."""
    speeds = [attempt.flops_per_s / attempt.devices for attempt in now_running if attempt.flops_per_s]
    return sum(speeds) / len(speeds) if speeds else None
