"""How fast a rung trains on one device: as stated, as attempts measured, or between what they measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sweepctl.plan.cost import Cost
from sweepctl.plan.plan import Job, Plan, Rung
from sweepctl.store import attempts
from sweepctl.store.attempts import Attempt
from sweepctl.store.speeds import MeasuredSpeed, SpeedClass, architecture, of_attempt, recorded
from sweepctl.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one device trains a rung."""

    flops_per_s: float
    """Exact training FLOPs a second."""
    least: bool = False
    """Measured on smaller rungs alone: larger models use a device better, so the true rate is no lower."""
    source: str = "measured"
    """Where it comes from: measured, interpolated between two shapes, extrapolated from one, stated."""
    trunk_s: float = 0.0
    """Device time beside training of a trunk: start, curve, checkpoints."""
    observation_s: float = 0.0
    """The same of a branch or a run."""

    @property
    def is_measured(self) -> bool:
        """Whether it was measured, or stated, for this very shape."""
        return not self.source.startswith(("interpolated", "extrapolated"))

    def device_s(self, cost: Cost) -> float:
        """Device time of jobs of the rung."""
        beside = (cost.jobs - cost.observations) * self.trunk_s + cost.observations * self.observation_s
        return cost.flops_exact / self.flops_per_s + beside


class Speeds:
    """What attempts measured, by class, for the rungs of plans. A branch's training is left out: it is short,
    and much of it is evaluation."""

    def __init__(self, plans: dict[str, Plan]) -> None:
        self._plans = plans
        self._classes: dict[SpeedClass, MeasuredSpeed] = {}
        self._own: dict[SpeedClass, MeasuredSpeed] = {}

    def add(self, plan: Plan, job: Job, job_attempts: Iterable[Attempt]) -> None:
        """Count a job's attempts."""
        for attempt in job_attempts if job.kind != "branch" else ():
            if attempt.facts.trained_tokens and attempt.facts.train_s:
                point = plan.point(job.point)
                speed = of_attempt(job.kind, point, plan.counts(job), attempt.facts)
                if speed is not None and speed.is_possible:
                    earlier = self._own.get(speed.of)
                    self._own[speed.of] = speed.after(earlier) if earlier else speed

    def add_recorded(self, workspace: Workspace) -> None:
        """What all sweeps of the workspace have measured."""
        for speed in recorded(workspace):
            self._classes[speed.of] = speed

    @property
    def _every(self) -> list[MeasuredSpeed]:
        """Where a class was measured by the attempts that were counted here, as they measured it."""
        return list((self._classes | self._own).values())

    def devices(self) -> list[str]:
        """What was measured on, by name, the newest first."""
        newest: dict[str, float] = {}
        for speed in self._every:
            newest[speed.of.device] = max(speed.ended, newest.get(speed.of.device, 0.0))
        return sorted(newest, key=lambda device: -newest[device])

    def kind_of(self, device: str) -> str:
        """The kind of a device of this name; cpu where only older versions measured, which did not say."""
        return next(
            (s.of.device_kind for s in self._every if s.of.device == device and s.of.device_kind), "cpu"
        )

    def rates(self, device: str | None = None, compiled: bool | None = None) -> dict[str, Rate]:
        """Rung -> rate on a device, over all of them by default; of what was measured compiled or eager as it
        will be run, where that was. Empty where nothing was measured that a rung could be held against."""
        every = [speed for speed in self._every if device in (None, speed.of.device)]
        return {
            rung.name: rate
            for plan in self._plans.values()
            for rung in plan.rungs
            if (rate := _rate(plan, rung, every, compiled)) is not None
        }


@dataclass(slots=True)
class _Shape:
    """A shape that was measured, all of its classes together."""

    name: str
    size: int
    d_model: int
    flops: float = 0.0
    device_s: float = 0.0
    beside: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    """Kind -> attempts, and their device seconds beside training."""

    def add(self, speed: MeasuredSpeed) -> None:
        if speed.of.kind != "branch":
            self.flops += speed.tokens * speed.of.flops_per_token
            self.device_s += speed.device_s
        attempts_s = self.beside[speed.of.kind]
        attempts_s[0] += speed.attempts
        attempts_s[1] += speed.beside_s

    @property
    def flops_per_s(self) -> float:
        return self.flops / self.device_s

    def beside_s(self, *kinds: str) -> float:
        """Device seconds beside training of an attempt of these kinds."""
        counted = [self.beside[kind] for kind in kinds if kind in self.beside]
        return sum(c[1] for c in counted) / sum(c[0] for c in counted) if counted else 0.0

    def rate(self, least: bool = False, source: str = "measured") -> Rate:
        return Rate(self.flops_per_s, least, source, self.beside_s("trunk"), self.beside_s("branch", "run"))


def _rate(plan: Plan, rung: Rung, every: list[MeasuredSpeed], compiled: bool | None) -> Rate | None:
    """A rung's rate, by shapes of its precision; by those of its architecture, run as it will be, where there
    are any."""
    like = [speed for speed in every if speed.of.precision == plan.base.precision]
    own = architecture(plan.base)
    like = _preferred(like, lambda speed: speed.of.architecture == own)
    if compiled is not None:
        like = _preferred(like, lambda speed: speed.of.compiled == compiled)
    shapes: dict[tuple[str, int], _Shape] = {}
    for speed in like:
        key = (speed.of.rung, speed.of.size)
        shapes.setdefault(key, _Shape(speed.of.rung, speed.of.size, speed.of.d_model)).add(speed)
    measured_shapes = {key: shape for key, shape in shapes.items() if shape.device_s > 0}
    size, width = rung.counts.matrix_elements, rung.shape.d_model
    if (rung.name, size) in measured_shapes:
        return measured_shapes[rung.name, size].rate()
    return _between(list(measured_shapes.values()), size, width)


def _preferred(speeds: list[MeasuredSpeed], is_like: Callable[[MeasuredSpeed], bool]) -> list[MeasuredSpeed]:
    """Those that are like it, where any that trained a whole job is."""
    alike = [speed for speed in speeds if is_like(speed)]
    return alike if any(speed.of.kind != "branch" for speed in alike) else speeds


def _between(shapes: list[_Shape], size: int, width: int) -> Rate | None:
    """The rate of a shape that was never run, between the nearest that is smaller and the nearest that is
    larger: linear in logarithms, by the distances in size and width. Outside of what was measured, that of
    the nearest."""

    def distance(shape: _Shape) -> float:
        return math.hypot(math.log(shape.size / size), math.log(shape.d_model / width))

    below = min((s for s in shapes if s.size <= size), key=distance, default=None)
    above = min((s for s in shapes if s.size >= size), key=distance, default=None)
    if below is None or above is None:
        nearest = below or above
        if nearest is None:
            return None
        return nearest.rate(least=above is None, source=f"extrapolated from {nearest.name}")
    if below is above:  # the same size, at another width alone
        return below.rate(source=f"extrapolated from {below.name}")
    near, far = distance(below), distance(above)
    share = near / (near + far) if near + far > 0 else 0.5

    def mean(low: float, high: float) -> float:
        return low + share * (high - low)

    return Rate(
        math.exp(mean(math.log(below.flops_per_s), math.log(above.flops_per_s))),
        source=f"interpolated between {below.name} and {above.name}",
        trunk_s=mean(below.beside_s("trunk"), above.beside_s("trunk")),
        observation_s=mean(below.beside_s("branch", "run"), above.beside_s("branch", "run")),
    )


def speeds_of(workspace: Workspace, plans: dict[str, Plan]) -> Speeds:
    """What the workspace has measured, and the attempts of these plans' trunks and runs."""
    speeds = Speeds(plans)
    speeds.add_recorded(workspace)
    for plan in plans.values():
        for job in plan.jobs:
            if job.kind != "branch" and workspace.has_job(job.id):
                speeds.add(plan, job, attempts.every(workspace.job(job.id)))
    return speeds


def measured(workspace: Workspace, plans: dict[str, Plan]) -> dict[str, Rate]:
    """Rung -> rate on the device that was trained on last."""
    speeds = speeds_of(workspace, plans)
    return speeds.rates(next(iter(speeds.devices()), None))
