"""Study to plan: rungs x grid settings -> points, budgets -> branches, with the ids of their science."""

from __future__ import annotations

import dataclasses
from typing import Any

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.plan.plan import Job, JobKind, Plan, PlanPoint, Rung, Taken
from sweepctl.plan.settings import PointSettings, with_schedule_field
from sweepctl.spec.accounting import count
from sweepctl.spec.budget import Budget
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.grid import Grid
from sweepctl.spec.learning_rate import Cycles
from sweepctl.spec.scaling import Scaling, is_of_another_kind
from sweepctl.spec.schedules.schedule import Schedule
from sweepctl.spec.science import Anneal, Corpus, Point, branch_id, run_id, trunk_id, with_field
from sweepctl.spec.study import Stage, Study

DERIVED = {
    "warmup_steps": "schedule.warmup_steps",
    "corpus": "data",
    "numerics": "nothing",
    "cycles": "schedule.kind",
}
"""Fields of a point that no axis may set, and what stands for them."""


def expand(study: Study, stage_name: str, corpus: CorpusFacts, taken: tuple[Taken, ...] = ()) -> Plan:
    """The plan of one stage.

    `taken` gives the values of the stage's `take` fields.

    Raises:
        RequestError: the stage cannot be planned as asked; the message names the field.
    """
    stage = study.all_stages[stage_name]
    base, schedule = _base(study, corpus)
    for path, value in PointSettings({value.field: value.value for value in taken}).in_order():
        base, schedule = _set(base, schedule, path, value)
    rungs = _rungs(study, stage, corpus)
    grid = study.grid.merged(stage.grid) if stage.grid else study.grid
    clash = sorted(set(grid.axes) & {value.field for value in taken})
    if clash:
        raise InvalidValue(
            f"stages.{stage_name}.take", clash[0], "a field that is not an axis of the grid too"
        )
    grid = grid.merged(Grid(_probes(stage_name, grid, taken)))
    scaling = study.scaling.without(set(grid.axes))
    builder = _Builder(study, stage, base, schedule, rungs, scaling)
    for index in range(len(rungs)):
        for settings in grid.settings():
            builder.add(index, settings)
    if not builder.jobs:
        why = f" ({next(iter(builder.dropped))[2]})" if builder.dropped else ""
        raise RequestError(f"Stage {stage_name} has no budget left{why}; its limits leave out every one.")
    return Plan(
        study=study.name,
        stage=stage_name,
        base=base,
        ladder=study.ladder,
        schedule=schedule,
        validation=study.validation.on(corpus.held_out),
        accounting=study.accounting,
        rungs=tuple(rungs),
        points=tuple(builder.points),
        jobs=tuple(builder.jobs),
        dropped=tuple(builder.dropped),
        taken=taken,
        corpus_name=study.data.name,
        corpus_tokens=corpus.train_tokens,
        predict_first=stage.predict_first,
        fit=stage.fit,
        scaling=scaling,
    )


def _probes(stage_name: str, grid: Grid, taken: tuple[Taken, ...]) -> dict[str, list[Any]]:
    """Axes of the multiples of values that a stage probes."""
    axes = {}
    for value in taken:
        at = f"stages.{stage_name}.take.{value.field}.factors"
        if value.factors and grid.sample is not None:
            raise InvalidValue(at, list(value.factors), "left out beside grid.sample, which draws points")
        if value.factors:
            axes[value.field] = [_times(at, value.value, factor) for factor in value.factors]
    return axes


def _times(at: str, value: Any, factor: float) -> Any:
    """A multiple of a value; whole where the value is."""
    if isinstance(value, float):
        return value * factor
    if isinstance(value, int) and not isinstance(value, bool) and (value * factor).is_integer():
        return int(value * factor)
    raise InvalidValue(at, factor, f"a factor that {value!r} can be multiplied by")


def _base(study: Study, corpus: CorpusFacts) -> tuple[Point, Schedule]:
    point = Point(
        shape=study.ladder.shapes(study.model)[0],
        model=study.model,
        parametrization=study.parametrization,
        optimizer=study.optimizer,
        warmup_steps=study.schedule.warmup(study.batch.tokens),
        batch=study.batch,
        corpus=Corpus(corpus.hash, corpus.vocab_size),
        seed=study.seed,
        precision=study.precision,
        divergence=study.divergence,
        trainer=study.trainer,
    )
    return point, study.schedule


def _rungs(study: Study, stage: Stage, corpus: CorpusFacts) -> list[Rung]:
    shapes = study.ladder.shapes(study.model)
    chosen = range(len(shapes)) if stage.rungs is None else stage.rungs
    rungs = []
    for place in chosen:
        if not -len(shapes) <= place < len(shapes):
            key = next(
                (f"stages.{name}.rungs" for name, other in study.stages.items() if other is stage), "rungs"
            )
            raise InvalidValue(
                key, place, f"the place of one of the {len(shapes)} rungs, 0 to {len(shapes) - 1}"
            )
        shape = shapes[place]
        counts = count(shape, study.model, corpus.vocab_size, study.batch.context)
        rungs.append(Rung(place % len(shapes), shape, counts))
    return rungs


def _set(point: Point, schedule: Schedule, path: str, value: Any) -> tuple[Point, Schedule]:
    """The point and its schedule with one field set; a schedule's warmup shows in the point.

    Raises:
        RequestError: there is no such field, or it follows from others.
    """
    if path.partition(".")[0] in DERIVED:
        instead = DERIVED[path.partition(".")[0]]
        raise RequestError(f"{path} follows from the study and cannot be set; {instead} can.")
    if path.startswith("schedule."):
        schedule = with_schedule_field(schedule, path, value)
    else:
        point = with_field(point, path, value)
    warmup = schedule.warmup(point.batch.tokens)
    return dataclasses.replace(point, warmup_steps=warmup), schedule


def _scaled(
    scaling: Scaling, base: Point, schedule: Schedule, rung: Rung, study: Study
) -> tuple[dict[str, Any], Point, Schedule]:
    """What the scaling rule sets for a rung, and the rung's point and schedule with it."""
    point = dataclasses.replace(base, shape=rung.shape)
    settings = scaling.settings(point, schedule, rung.counts, study.accounting)
    for path, value in settings.items():
        point, schedule = _set(point, schedule, path, value)
    return settings, point, schedule


def _effective(point: Point) -> Point:
    """The point with what changes nothing beside its other fields at one value. Its id is none that is given:
    ids that were given stay."""
    cycles = point.cycles.effective() if point.cycles else None
    return dataclasses.replace(point, optimizer=point.optimizer.effective(), cycles=cycles)


class _Builder:
    """Collects points and jobs. Jobs of equal science, from two settings, from ones that change nothing, or
    from rounding, are kept once."""

    def __init__(
        self,
        study: Study,
        stage: Stage,
        base: Point,
        schedule: Schedule,
        rungs: list[Rung],
        scaling: Scaling,
    ) -> None:
        self.study, self.rungs = study, rungs
        self.budgets = stage.budget or study.budget
        self.shortest = stage.budget is None and any(take.factors for take in stage.take.values())
        self.base = base
        self.points: list[PlanPoint] = []
        self.dropped: dict[tuple[str, str, str], None] = {}
        self._scaled = [_scaled(scaling, base, schedule, rung, study) for rung in rungs]
        self._jobs: dict[str, Job] = {}
        self._alike: dict[str, Point] = {}

    @property
    def jobs(self) -> list[Job]:
        return list(self._jobs.values())

    def add(self, rung_index: int, settings: dict[str, Any]) -> None:
        """One point and the jobs of its budgets."""
        scaled, point, schedule = self._scaled[rung_index]
        for path, value in PointSettings(settings).in_order():
            point, schedule = _set(point, schedule, path, value)
        scaled = {path: v for path, v in scaled.items() if not is_of_another_kind(path, point, schedule)}
        rung = self.rungs[rung_index]
        counts = rung.counts
        sized = (point.shape, point.model, point.batch.context)
        if sized != (rung.shape, self.base.model, self.base.batch.context):
            counts = count(point.shape, point.model, point.corpus.vocab_size, point.batch.context)
        budgets, dropped = self.budgets.of(counts, self.study.accounting, point.batch.tokens)
        budgets = budgets[:1] if self.shortest else budgets
        self.dropped.update(dict.fromkeys((rung.name, *row) for row in dropped))
        if not budgets:
            return
        if point.warmup_steps != self.base.warmup_steps:
            settings = {**settings, "warmup_steps": point.warmup_steps}
        cycles = self._cycles(schedule, budgets, point)
        if cycles is not None:
            point = dataclasses.replace(point, cycles=cycles)
        point = self._alike.setdefault(trunk_id(_effective(point)), point)
        index = len(self.points)
        self.points.append(PlanPoint(rung_index, PointSettings(scaled | settings), cycles))
        if schedule.forks:
            self._fork(index, point, schedule, budgets)
        else:
            for budget in budgets:
                anneal = self._anneal(schedule, budget, point)
                self._keep(run_id(point, anneal), "run", index, None, anneal, budget)

    def _fork(self, index: int, point: Point, schedule: Schedule, budgets: list[Budget]) -> None:
        trunk = trunk_id(point)
        anneals = [self._anneal(schedule, budget, point) for budget in budgets]
        last = max(anneal.cut for anneal in anneals)
        planned = self._jobs.get(trunk)
        if planned is None:
            self._jobs[trunk] = Job(trunk, "trunk", index, None, None, last)
        elif planned.end < last:
            self._jobs[trunk] = dataclasses.replace(planned, end=last)
        for anneal, budget in zip(anneals, budgets, strict=True):
            self._keep(branch_id(trunk, anneal), "branch", index, trunk, anneal, budget)

    def _anneal(self, schedule: Schedule, budget: Budget, point: Point) -> Anneal:
        try:
            cut = schedule.cut(budget.steps, point.batch.tokens)
            return schedule.anneal(cut, budget.steps, self.study.validation.tokens)
        except RequestError as error:
            raise RequestError(f"Rung {point.shape.name}, {budget.label}: {error}") from None

    def _cycles(self, schedule: Schedule, budgets: list[Budget], point: Point) -> Cycles | None:
        try:
            return schedule.cycles([budget.steps for budget in budgets], point.batch.tokens)
        except RequestError as error:
            raise RequestError(f"Rung {point.shape.name}: {error}") from None

    def _keep(
        self, job: str, kind: JobKind, point: int, trunk: str | None, anneal: Anneal, budget: Budget
    ) -> None:
        self._jobs.setdefault(
            job,
            Job(job, kind, point, trunk, anneal.cut, anneal.end, budget.label, budget.requested_tokens),
        )
