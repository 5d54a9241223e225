"""The plan: which jobs, their edges, their cost. Immutable, machine-independent, one JSON file.

The file holds the shared science once (`base`) and for every job only what differs: its point's rung and
settings, its cut and its end. A plan of 100,000 jobs is about ten megabytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from sweepctl.errors import DamagedFile
from sweepctl.plan import earlier
from sweepctl.plan.optimum import GridOptimum
from sweepctl.plan.settings import PointSettings
from sweepctl.spec.accounting import Accounting, Counts, count
from sweepctl.spec.build import build, plain
from sweepctl.spec.corpus import Validation
from sweepctl.spec.hashing import canonical, digest, is_digest
from sweepctl.spec.ladder import Ladder
from sweepctl.spec.learning_rate import Cycles
from sweepctl.spec.model import Shape
from sweepctl.spec.scaling import Scaling
from sweepctl.spec.schedules.schedule import Schedule
from sweepctl.spec.science import Anneal, JobScience, Point, read_point, read_section, section
from sweepctl.spec.study import check_name

FORMAT = 1

JobKind = Literal["trunk", "branch", "run"]


@dataclass(frozen=True, slots=True)
class Rung:
    """One shape of the ladder."""

    index: int
    """Its place in the study's ladder."""
    shape: Shape
    """Width and depth."""
    counts: Counts
    """Parameters and FLOPs, by every convention."""

    @property
    def name(self) -> str:
        return self.shape.name


@dataclass(frozen=True, slots=True)
class PlanPoint:
    """A rung with hyperparameters and seeds."""

    rung: int
    """Its place in `Plan.rungs`."""
    settings: PointSettings
    """Fields in which it differs from the base."""
    cycles: Cycles | None = None
    """Of a wsd-s trunk, the decays that its budgets make."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a plan. Steps are updates."""

    id: str
    """The hash of its science."""
    kind: JobKind
    """What it is in the study."""
    point: int
    """Its place in `Plan.points`."""
    trunk: str | None
    """Id of the trunk it leaves; None for what is no branch."""
    cut: int | None
    """The step at which it leaves."""
    end: int
    """Its last step; a trunk's is its last cut."""
    label: str = ""
    """The budget as it was asked for, of a branch or run."""
    requested_tokens: float = 0.0
    """The same in tokens."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A value that came from an earlier stage's results, frozen with where it came from."""

    field: str
    """What it is a value of."""
    value: Any
    """The number that was chosen."""
    stage: str
    """From which stage."""
    rule: str
    """By which rule."""
    plan: str
    """Hash of that stage's plan."""
    losses: dict[str, float]
    """Value -> its mean loss there."""
    optimum: GridOptimum | None = None
    """Where its grid has the least loss; None of an early version."""
    best_over: tuple[str, ...] = ()
    """Other axes of the grid, of which each value had its best."""
    factors: tuple[float, ...] = ()
    """Times which it is planned, to see what it costs at this stage's rungs."""
    carried: Any = None
    """The value that the earlier stage probed: taken from another stage itself."""

    @property
    def at_edge(self) -> bool:
        """Whether the grid ends at the value, so that its optimum may lie beyond."""
        if self.optimum is not None and "no_logarithm" not in self.optimum.flags:
            return "edge" in self.optimum.flags
        if not isinstance(self.value, (int, float)) or isinstance(self.value, bool):
            return False
        values = [float(value) for value in self.losses]
        return len(values) > 1 and self.value in (min(values), max(values))

    @property
    def flags(self) -> tuple[str, ...]:
        """What to know of it, of `optimum.FLAGS`."""
        others = self.optimum.flags if self.optimum else ()
        return ("edge",) * self.at_edge + tuple(flag for flag in others if flag != "edge")


@dataclass(frozen=True)
class Plan:
    """A study's stage, expanded. Everything in it follows from the study and the frozen `taken` values."""

    study: str
    """Name of the study."""
    stage: str
    """Name of the stage."""
    base: Point
    """The point from which others differ."""
    ladder: Ladder
    """The study's."""
    schedule: Schedule
    """The study's."""
    validation: Validation
    """What is held out, and whose loss counts."""
    accounting: Accounting
    """How N and C are counted."""
    rungs: tuple[Rung, ...]
    """Those of the stage."""
    points: tuple[PlanPoint, ...]
    """Every rung with every setting of the grid."""
    jobs: tuple[Job, ...]
    """What is trained, trunks before their branches."""
    dropped: tuple[tuple[str, str, str], ...] = ()
    """Rung, budget and reason, of budgets that the limits drop."""
    taken: tuple[Taken, ...] = ()
    """Values from earlier stages."""
    corpus_name: str = ""
    """Its folder in the workspace."""
    corpus_tokens: int = 0
    """To train on."""
    predict_first: bool = False
    """Whether its jobs are held back until they are predicted."""
    fit: bool = True
    """Whether laws take its runs."""
    scaling: Scaling = Scaling()
    """Fields by formula of the rung."""

    @cached_property
    def text(self) -> str:
        """The plan's file: canonical JSON."""
        return self._dumps()

    @cached_property
    def hash(self) -> str:
        """Of the file's content: equal plans have equal names."""
        return digest(self.text)

    @cached_property
    def by_id(self) -> dict[str, Job]:
        return {job.id: job for job in self.jobs}

    @cached_property
    def branches(self) -> dict[str, list[Job]]:
        """Trunk id -> its branches, in rising order of their cut."""
        branches: dict[str, list[Job]] = {job.id: [] for job in self.jobs if job.kind == "trunk"}
        for job in self.jobs:
            if job.trunk is not None:
                branches[job.trunk].append(job)
        return branches

    @property
    def probes(self) -> bool:
        """Whether it asks what a value costs that was chosen elsewhere."""
        return any(taken.factors for taken in self.taken)

    def observations(self) -> Iterator[Job]:
        """The jobs that end in an annealed loss."""
        return (job for job in self.jobs if job.kind != "trunk")

    def rung_of(self, job: Job) -> Rung:
        return self.rungs[self.points[job.point].rung]

    def counts(self, job: Job) -> Counts:
        """Parameters and FLOPs of the job's model: its rung's, unless a setting changes the model."""
        row = self.points[job.point]
        if not row.settings.change_counts:
            return self.rungs[row.rung].counts
        if job.point not in self._own_counts:
            point = self.point(job.point)
            self._own_counts[job.point] = count(
                point.shape, point.model, point.corpus.vocab_size, point.batch.context
            )
        return self._own_counts[job.point]

    @cached_property
    def _own_counts(self) -> dict[int, Counts]:
        return {}

    def batch_tokens(self, job: Job) -> int:
        return int(self.points[job.point].settings.get("batch.tokens", self.base.batch.tokens))

    def tokens(self, job: Job) -> int:
        """Tokens from the first step to the job's end: the D that is really trained."""
        return job.end * self.batch_tokens(job)

    def point(self, index: int) -> Point:
        """The full science of one point."""
        row = self.points[index]
        point = row.settings.point(dataclasses.replace(self.base, shape=self.rungs[row.rung].shape))
        return dataclasses.replace(point, cycles=row.cycles) if row.cycles else point

    def schedule_of(self, index: int) -> Schedule:
        """The schedule of one point, but for its warmup, which the point has in steps."""
        if index not in self._schedules:
            self._schedules[index] = self.points[index].settings.schedule(self.schedule)
        return self._schedules[index]

    @cached_property
    def _schedules(self) -> dict[int, Schedule]:
        return {}

    def anneal(self, job: Job) -> Anneal | None:
        """How the job comes down, None for a trunk."""
        if job.cut is None:
            return None
        return self.schedule_of(job.point).anneal(job.cut, job.end, self.validation.tokens)

    def science(self, job: Job) -> JobScience:
        return JobScience(job.kind, self.point(job.point), self.anneal(job))

    def _dumps(self) -> str:
        rows = {
            "points": [
                [p.rung, p.settings, *([section("cycles", p.cycles)] if p.cycles else [])]
                for p in self.points
            ],
            "jobs": [
                [j.id, j.kind, j.point, j.trunk, j.cut, j.end, j.label, j.requested_tokens] for j in self.jobs
            ],
        }
        shared = [f.name for f in dataclasses.fields(self) if f.name not in rows]
        return canonical({name: plain(getattr(self, name)) for name in shared} | rows | {"format": FORMAT})


def load(text: str, name: str) -> Plan:
    """A plan from the text of its file.

    Raises:
        DamagedFile: the text is not such a plan; `name` says which file in the message.
    """
    try:
        raw = json.loads(text)
        if raw.pop("format") != FORMAT:
            raise DamagedFile(f"{name} was written by another version of sweepctl; plan the sweep again.")
        records = {"optimizer": raw["base"]["optimizer"]}
        raw["base"] = read_point(raw["base"], "base")
        raw["validation"] = build(Validation, raw["validation"], "validation")
        raw["accounting"] = build(Accounting, raw["accounting"], "accounting")
        raw["rungs"] = tuple(build(Rung, rung, "rungs") for rung in raw["rungs"])
        raw["ladder"] = build(Ladder, raw["ladder"], "ladder")
        raw["taken"] = tuple(build(Taken, taken, "taken") for taken in raw["taken"])
        raw["dropped"] = tuple(tuple(row) for row in raw["dropped"])
        records["schedule"] = earlier.schedule(raw)
        schedule = Schedule.own_keys(records["schedule"])
        raw["schedule"] = build(Schedule, schedule, "schedule")  # type: ignore[type-abstract]
        raw["scaling"] = build(Scaling, raw.get("scaling", {}), "scaling")
        settings: Iterable[dict[str, Any]] = (row[1] for row in raw["points"])
        for own in (raw["schedule"], raw["base"].optimizer):
            settings = earlier.settings(settings, own, records[own.at])
        raw["points"] = tuple(map(_point, raw["points"], settings))
        raw["jobs"] = tuple(map(_job, raw["jobs"]))
        if raw.get("corpus_name"):
            check_name("corpus_name", raw["corpus_name"])
        plan = Plan(**raw)
    except DamagedFile:
        raise
    except Exception as error:
        raise DamagedFile(f"{name} is not a plan ({error}); plan the sweep again.") from None
    vars(plan)["text"] = text  # its hash is its file's name, also where this version would write it otherwise
    return plan


def _job(row: list[Any]) -> Job:
    """A row of the plan's jobs. Ids become paths: they are nothing but ids."""
    job = Job(*row)
    for name in (job.id, *([job.trunk] if job.trunk is not None else [])):
        if not is_digest(name):
            raise ValueError(f"{name!r} is no job's id")
    return job


def _point(row: list[Any], settings: dict[str, Any]) -> PlanPoint:
    """A row of the plan's points, with its settings as this version has them."""
    rung, _, *cycles = row
    decays = read_section(Cycles, "cycles", cycles[0]) if cycles else None
    return PlanPoint(rung, PointSettings(settings), decays)
