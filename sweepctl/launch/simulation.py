"""The feed of jobs in simulated time: devices that train, files that are only thought of.

What is decided is decided by `launch/feed.py`; here are a clock, devices as its transport, and a store in
memory that begins as the real one is.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweepctl.launch.feed import Decision, Feed
from sweepctl.launch.retries import Retries
from sweepctl.plan.plan import Plan
from sweepctl.store.attempts import Attempt
from sweepctl.store.ends import End
from sweepctl.store.job import JobFolder
from sweepctl.store.result import Result
from sweepctl.store.state import JobFiles, JobFilesCache
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from sweepctl.store.workspace import Sweep


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a job takes."""

    step_s: float
    """Of a step."""
    beside_s: float = 0.0
    """Beside its steps, at every start of an attempt."""
    devices: int = 1
    """Devices that train it at once."""

    def seconds(self, steps: int) -> float:
        return self.beside_s + steps * self.step_s


@dataclass(frozen=True, slots=True)
class Faults:
    """What befalls devices, each at random times with a mean rate."""

    preemptions_per_hour: float = 0.0
    """Of a device: its attempt saves, and its job goes on elsewhere."""
    failures_per_hour: float = 0.0
    """Of a device: its attempt dies, and what was trained since its last checkpoint is lost."""
    repair_s: float = 600.0
    """How long a device is away after it failed."""
    checkpoint_every_s: float = 300.0
    """Time between rolling checkpoints."""
    seed: int = 0
    """Of the times."""


class ThoughtAttempt(Attempt):
    """An attempt of which nothing is written."""

    def update(self, **facts: Any) -> None:
        self.note(**facts)

    def alive(self) -> bool:
        return not self.ended


class ThoughtFiles(JobFiles):
    """A job's files, as they would be."""

    def __init__(self, folder: JobFolder, begun: bool) -> None:
        super().__init__(folder)
        real = JobFiles(folder) if begun else None
        self.begun = begun
        self._result = real.result if real is not None else None
        self.saved = list(real.saved) if real is not None else []
        self.attempts: list[Attempt] = []

    @property
    def result(self) -> Result | None:
        return self._result

    def save(self, step: int) -> None:
        """A checkpoint, or a rolling one in the place of the rolling one before."""
        if not self.saved or step > self.saved[-1]:
            self.saved.append(step)

    def end(self, step: int) -> None:
        self._result = Result(End.DONE, step)


class ThoughtStore(JobFilesCache):
    """Files that begin as those of a workspace are and change in memory alone."""

    def __init__(self, has_job: Callable[[str], bool]) -> None:
        super().__init__()
        self._has_job = has_job

    def of(self, folder: JobFolder) -> ThoughtFiles:
        files = self._files.get(folder.id)
        if not isinstance(files, ThoughtFiles):
            files = self._files[folder.id] = ThoughtFiles(folder, self._has_job(folder.id))
        return files


class SimulatedJobs(SweepJobs):
    """The jobs of plans, held against a store in memory."""

    def __init__(self, sweep: Sweep, plans: dict[str, Plan], store: ThoughtStore) -> None:
        self._store = store
        super().__init__(sweep, plans)

    def look(self, once: bool = False) -> ThoughtStore:
        return self._store

    def newest_attempt(self, folder: JobFolder) -> Attempt | None:
        every = self._store.of(folder).attempts
        return every[-1] if every else None

    def every_attempt(self, folder: JobFolder) -> list[Attempt]:
        return self._store.of(folder).attempts

    def has_begun(self, planned_job: PlannedJob) -> bool:
        return self._store.of(planned_job.folder).begun

    def marked_cancelled(self) -> set[str]:
        return set()

    def unwanted(self) -> set[str]:
        return set()

    def make_wishes(self, keep: str = "all") -> int:
        return 0

    def cuts_left(self, trunk: PlannedJob) -> list[int]:
        """Steps that a trunk is still wanted to save, rising."""
        files = self._store.of(trunk.folder)
        reached = files.saved[-1] if files.saved else 0
        open_branches = (
            b for b in self.branches.get(trunk.job.id, ()) if self._store.of(b.folder).result is None
        )
        return sorted({cut for b in open_branches if (cut := b.job.cut or 0) > reached})

    def first_step(self, planned_job: PlannedJob) -> int:
        """The step that an attempt would go on from now."""
        own = self._store.of(planned_job.folder).saved
        if own or planned_job.trunk is None:
            return own[-1] if own else 0
        return self._store.of(planned_job.trunk).start_of(planned_job.job.cut or 0)


@dataclass(slots=True)
class Stay:
    """An attempt on its devices."""

    planned_job: PlannedJob
    """Its job."""
    device: int
    """The first of its devices, which stands for all."""
    begun_s: float
    """When it was started."""
    first_step: int
    """The step it went on from."""
    pace: Pace
    """How fast it is."""
    ended_s: float = math.inf
    """When it ended."""
    stops: list[int] = field(default_factory=list)
    """Steps to save at, and at last to end at."""
    saved_s: float = 0.0
    """When it last saved."""

    def time_of(self, step: int) -> float:
        return self.begun_s + self.pace.seconds(step - self.first_step)

    def step_at(self, now: float) -> int:
        trained_s = now - self.begun_s - self.pace.beside_s
        steps = math.floor(trained_s / self.pace.step_s + 1e-9) if self.pace.step_s else 0
        return max(self.first_step, min(self.stops[-1], self.first_step + steps))


class Simulation:
    """Trains what is left of jobs on so many devices, by the feed's decisions, until nothing can start.

    `stays` has what ran, in the order of its starts."""

    def __init__(
        self,
        jobs: SimulatedJobs,
        devices: int,
        pace: Callable[[PlannedJob], Pace],
        retries: Retries,
        begins_s: float = 0.0,
        faults: Faults | None = None,
        on_saved: Callable[[PlannedJob, int], None] = lambda planned_job, step: None,
    ) -> None:
        self.jobs, self.devices, self.now, self.faults = jobs, devices, begins_s, faults
        self._pace, self._on_saved = pace, on_saved
        self.feed = Feed(
            jobs, jobs.unfinished(), retries, tell=self._decided, clock=lambda: self.now, idle_s=math.inf
        )
        self.stays: list[Stay] = []
        self.failed: list[str] = []
        self.preempted = self.died = 0
        self.lost_s = 0.0
        most = devices if faults else sum(pace(planned_job).devices for planned_job in jobs.by_id.values())
        self._free = list(range(min(devices, most)))
        self._taken: dict[int, list[int]] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._random = random.Random(faults.seed if faults else 0)
        self._by_device: dict[int, Stay] = {}

    def run(self) -> float:
        """When the last job ends."""
        self._start_all()
        while self._events:
            at_s, _, happen = heapq.heappop(self._events)
            self.now = max(self.now, at_s)
            happen()
            self._start_all()
        return max((stay.ended_s for stay in self.stays), default=self.now)

    def _at(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (seconds, next(self._count), happen))

    def _decided(self, decision: Decision) -> None:
        if decision.state.value == "failed":
            self.failed.append(decision.planned_job.job.id)

    def _start_all(self) -> None:
        rest_s = self.feed.rest_s()
        if rest_s > 0:
            self._at(self.now + rest_s, lambda: None)
        while self._free:
            planned_job = self.feed.next()
            if planned_job is None:
                return
            pace = self._pace(planned_job)
            if pace.devices > len(self._free):  # the most urgent one gets what becomes free first
                return
            self._start(planned_job, pace)

    def _start(self, planned_job: PlannedJob, pace: Pace) -> None:
        taken = [heapq.heappop(self._free) for _ in range(pace.devices)]
        device = taken[0]
        self._taken[device] = taken
        first = self.jobs.first_step(planned_job)
        is_trunk = planned_job.job.kind == "trunk"
        stops = self.jobs.cuts_left(planned_job) if is_trunk else [planned_job.job.end]
        stay = Stay(planned_job, device, self.now, first, pace, stops=stops or [first], saved_s=self.now)
        self.stays.append(stay)
        self._by_device[device] = stay
        files = self.jobs.look().of(planned_job.folder)
        files.begun = True
        number = len(files.attempts) + 1
        record = {"attempt": number, "host": socket.gethostname(), "pid": device, "start_step": first}
        files.attempts.append(ThoughtAttempt(Path(planned_job.job.id), number, record))
        self.feed.started(planned_job)
        if self.faults is not None:
            self._draw(stay, self.faults)
        self._next_stop(stay, 0)

    def _next_stop(self, stay: Stay, place: int) -> None:
        step = stay.stops[place]

        def reach() -> None:
            if self._by_device.get(stay.device) is not stay:
                return
            if stay.planned_job.job.kind == "trunk":
                self._save(stay, step)
                self.feed.saved(stay.planned_job.job.id)
            if place + 1 < len(stay.stops):
                self._next_stop(stay, place + 1)
            else:
                self._end(stay, End.DONE)

        self._at(max(self.now, stay.time_of(step)), reach)

    def _save(self, stay: Stay, step: int) -> None:
        self.jobs.look().of(stay.planned_job.folder).save(step)
        stay.saved_s = self.now
        self._on_saved(stay.planned_job, step)

    def _end(self, stay: Stay, end: End) -> None:
        files = self.jobs.look().of(stay.planned_job.folder)
        if end is End.DONE and stay.planned_job.job.kind != "trunk":
            files.end(stay.planned_job.job.end)
        self._leave(stay)
        files.attempts[-1].end(end)
        self.feed.ended(stay.planned_job, end, "")

    def _leave(self, stay: Stay, away_s: float = 0.0) -> None:
        stay.ended_s = self.now
        del self._by_device[stay.device]
        for device in self._taken.pop(stay.device):
            if away_s and device == stay.device:
                self._at(self.now + away_s, lambda: heapq.heappush(self._free, stay.device))
            else:
                heapq.heappush(self._free, device)

    def _draw(self, stay: Stay, faults: Faults) -> None:
        """When its devices will be taken away, or fail: the first of the two, if it comes before the end."""
        rates = (faults.preemptions_per_hour, faults.failures_per_hour)
        hours = [self._random.expovariate(rate * stay.pace.devices) if rate else math.inf for rate in rates]
        at_s = self.now + 3600 * min(hours)
        if at_s >= stay.time_of(stay.stops[-1]):
            return
        is_preempted = hours[0] <= hours[1]

        def strike() -> None:
            if self._by_device.get(stay.device) is stay:
                self._preempt(stay) if is_preempted else self._fail(stay, faults)

        self._at(at_s, strike)

    def _preempt(self, stay: Stay) -> None:
        self.preempted += 1
        step = stay.step_at(self.now)
        if step > stay.first_step:
            self._save(stay, step)
        self._end(stay, End.STOPPED)

    def _fail(self, stay: Stay, faults: Faults) -> None:
        """It dies; its rolling checkpoints stay, the last of which it had made since its last save."""
        self.died += 1
        rolled = math.floor((self.now - stay.saved_s) / faults.checkpoint_every_s)
        saved_s = stay.saved_s + rolled * faults.checkpoint_every_s
        step = stay.step_at(saved_s)
        if rolled and step > stay.first_step:
            self.jobs.look().of(stay.planned_job.folder).save(step)
        self.lost_s += self.now - max(saved_s, stay.begun_s)
        self._leave(stay, faults.repair_s)
        self.feed.died(stay.planned_job, stay.device, "its node failed", Path("log"))


@dataclass(frozen=True, slots=True)
class Link:
    """A piece of a chain of jobs, each of which waits for the one before."""

    job: str
    """Id."""
    name: str
    """What people call it."""
    stage: str
    """Its stage."""
    seconds: float
    """How long the piece takes."""


def longest_chain(jobs: SimulatedJobs, pace: Callable[[PlannedJob], Pace]) -> list[Link]:
    """What takes longest however many devices there are: a trunk up to a cut, and its branch."""
    longest: list[Link] = []
    for planned_job in jobs.unfinished():
        chain, own = [], pace(planned_job)
        trunk = jobs.by_id.get(planned_job.job.trunk or "")
        cut, first = planned_job.job.cut or 0, jobs.first_step(planned_job)
        if trunk is not None and not jobs.look().of(trunk.folder).reaches(cut):
            steps = cut - jobs.first_step(trunk)
            chain.append(_link(trunk, pace(trunk).seconds(steps)))
            first = cut
        if planned_job.job.kind == "trunk":
            stops = jobs.cuts_left(planned_job)
            chain.append(_link(planned_job, own.seconds((stops[-1] if stops else first) - first)))
        else:
            chain.append(_link(planned_job, own.seconds(planned_job.job.end - first)))
        if sum(link.seconds for link in chain) > sum(link.seconds for link in longest):
            longest = chain
    return longest


def work_s(jobs: SimulatedJobs, pace: Callable[[PlannedJob], Pace]) -> float:
    """Device time of all that is left, nothing of it lost."""
    whole = 0.0
    for planned_job in jobs.unfinished():
        own = pace(planned_job)
        if planned_job.job.kind == "trunk":
            stops = jobs.cuts_left(planned_job)
            steps = stops[-1] - jobs.first_step(planned_job) if stops else 0
        else:
            trunk = jobs.look().of(planned_job.trunk) if planned_job.trunk else None
            cut = planned_job.job.cut or 0
            waits = trunk is not None and not trunk.reaches(cut)
            steps = planned_job.job.end - (cut if waits else jobs.first_step(planned_job))
        whole += own.devices * own.seconds(steps)
    return whole


def _link(planned_job: PlannedJob, seconds: float) -> Link:
    return Link(planned_job.job.id, planned_job.name, planned_job.plan.stage, seconds)
