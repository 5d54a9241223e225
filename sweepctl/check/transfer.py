"""The table of learning-rate transfer: which rows it has, each a study of its own, planned into a sweep,
trained by the product itself and read back from its store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sweepctl.check.drift import Floats, TransferVerdict, judge
from sweepctl.errors import InvalidValue, RequestError, unknown_name
from sweepctl.launch.compare import compare_all
from sweepctl.launch.local import LocalLaunch, LocalSettings, Watcher
from sweepctl.launch.outcome import Trained
from sweepctl.launch.retry import choose
from sweepctl.plan.cost import Cost, sum_costs
from sweepctl.plan.expand import expand
from sweepctl.plan.plan import Job, Plan
from sweepctl.spec.budget import Budgets
from sweepctl.spec.compose import compose_study
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.grid import Grid, axis_values
from sweepctl.spec.science import Batch
from sweepctl.spec.study import Stage, Study
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.store.workspace import Sweep, Workspace

RATE = "optimizer.lr"


@dataclass(frozen=True, slots=True)
class TransferRow:
    """One change to the baseline."""

    name: str
    """What it is asked for by."""
    what: str
    """The change in words."""
    overrides: tuple[str, ...] = ()
    """The change as Hydra overrides of the study."""
    batch: float = 1.0
    """A factor on the batch, at the same number of updates."""
    transfers: bool = True
    """What is expected: no for standard parametrization, and for what broke transfer in Lingle (2024, arXiv
    2404.05728). Such a row is shown as a contrast and fails no check."""


def _rates(low: int, high: int) -> str:
    return f"grid.axes.{RATE}={{log2: {{from: {low}, to: {high}}}}}"


ROWS: dict[str, TransferRow] = {
    row.name: row
    for row in (
        TransferRow("mup", "the study as it is"),
        TransferRow(
            "standard",
            "standard parametrization, the same at the base width",
            ("parametrization.name=standard", _rates(-11, -6)),
            transfers=False,
        ),
        TransferRow("biases", "biases in every projection", ("model.biases=true",)),
        TransferRow("swiglu", "SwiGLU", ("model.activation=swiglu",)),
        TransferRow("relu2", "squared ReLU", ("model.activation=relu2",)),
        TransferRow("batch-x4", "four times the batch", batch=4),
        TransferRow("batch-div4", "a quarter of the batch", batch=1 / 4),
        TransferRow("zero-query", "queries start at zero", ("parametrization.zero_query=true",)),
        TransferRow(
            "sp-unembedding",
            "Lingle's table, the head of standard parametrization",
            (
                "parametrization=mutransfer",
                "parametrization.sp_head=true",
                "parametrization.init_std=1.0",
            ),
        ),
        TransferRow("gains-vector", "RMSNorm with a gain a channel", ("model.gains=true",), transfers=False),
        TransferRow("gains-scalar", "RMSNorm with one gain", ("model.gains=scalar",), transfers=False),
        TransferRow(
            "lion",
            "Lion",
            ("optimizer=lion", _rates(-12, -8)),
            transfers=False,
        ),
        TransferRow(
            "decay-0.1",
            "weight decay 0.1 by the peak rate, whatever the width",
            ("optimizer.weight_decay=0.1", "optimizer.weight_decay_rule=scaled"),
            transfers=False,
        ),
        TransferRow(
            "muon",
            "Muon for the matrices inside blocks; the rate of the rest stays",
            (
                "optimizer=muon",
                "optimizer.muon_scale=spectral",
                "optimizer.adamw_lr=0.0078125",
                _rates(-8, -3),
            ),
        ),
    )
}
DEFAULT = ("mup", "standard")


def rows_named(text: str) -> list[TransferRow]:
    """Rows of a list such as `mup,standard`, or all.

    Raises:
        RequestError: there is no such row.
    """
    names = list(ROWS) if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ROWS:
            raise unknown_name("row", name, [*ROWS, "all"])
    return [ROWS[name] for name in dict.fromkeys(names)]


def row_study(
    row: TransferRow, seeds: int, overrides: Sequence[str], config_dir: Path | None = None
) -> Study:
    """The study of a row: `study=transfer` unless the overrides name another, the row's change, and then the
    overrides. Each seed, of initialization and data alike, is a stage, so that more seeds add only runs.

    A study whose stages take the learning rate from one of them is checked by the grid and budget of that
    one, on the whole ladder; its rung is the base.

    Raises:
        RequestError: an override is not valid, or the study has other axes than learning rates.
    """
    if seeds < 1:
        raise InvalidValue("--seeds", seeds, "at least 1")
    chosen = [text for text in overrides if text.startswith("study=")] or ["study=transfer"]
    rest = [text for text in overrides if not text.startswith("study=")]
    study = compose_study([*chosen, *row.overrides, *rest], config_dir)
    study, rungs = _searched(study)
    if set(study.grid.axes) != {RATE} or len(axis_values(RATE, study.grid.axes[RATE])) < 3:
        raise InvalidValue("grid.axes", study.grid.axes, f"at least three values of {RATE} and no other axis")
    return replace(
        study,
        name=f"{study.name}-{row.name.replace('.', '_')}",
        batch=Batch(round(row.batch * study.batch.tokens), study.batch.context),
        budget=_scaled(study.budget, row.batch),
        stages={
            f"seed{seed}": Stage(rungs=rungs, grid=Grid({"seed.init": [seed], "seed.data": [seed]}))
            for seed in range(seeds)
        },
    )


def _searched(study: Study) -> tuple[Study, tuple[int, ...] | None]:
    """The study with the grid and the budget by which one of its stages looks for the learning rate, and its
    rungs with that stage's first; the study as it is, and None, where no stage does."""
    names = {
        take.stage for stage in study.stages.values() for path, take in stage.take.items() if path == RATE
    }
    if not names:
        return study, None
    stage = next(stage for name, stage in study.stages.items() if name in names)
    grid = study.grid
    if RATE not in grid.axes and stage.grid is not None:
        axes = {path: values for path, values in stage.grid.axes.items() if not path.startswith("seed.")}
        grid = replace(stage.grid, axes=axes)
    count = len(study.ladder.shapes(study.model))
    base = [place % count for place in stage.rungs or ()]
    rungs = (*base, *(place for place in range(count) if place not in base))
    return replace(study, grid=grid, budget=stage.budget or study.budget), rungs


def _scaled(budget: Budgets, factor: float) -> Budgets:
    """The budgets at the same number of updates of a batch that is larger by the factor."""
    return replace(
        budget,
        tokens=tuple(factor * tokens for tokens in budget.tokens),
        tokens_per_parameter=tuple(factor * ratio for ratio in budget.tokens_per_parameter),
        flops=tuple(factor * flops for flops in budget.flops),
        max_tokens=None if budget.max_tokens is None else factor * budget.max_tokens,
    )


@dataclass(frozen=True, slots=True)
class RowPlan:
    """A row as a sweep of its own."""

    row: TransferRow
    """What it changes."""
    sweep: Sweep
    """Where its plans lie."""
    plans: dict[str, Plan]
    """One a seed."""

    @property
    def first(self) -> Plan:
        return next(iter(self.plans.values()))

    @property
    def rungs(self) -> tuple[str, ...]:
        """Names of the rungs, the base first."""
        return tuple(rung.name for rung in self.first.rungs)

    @property
    def rates(self) -> list[float]:
        """The learning rates, rising."""
        return sorted({self.first.point(job.point).optimizer.lr for job in self.first.observations()})


def plan_row(workspace: Workspace, row: TransferRow, study: Study, corpus: CorpusFacts) -> RowPlan:
    """Expand a row; nothing is written.

    Raises:
        RequestError: it cannot be planned, or a rung has more than one budget.
    """
    plans = {stage: expand(study, stage, corpus) for stage in study.all_stages}
    planned = RowPlan(row, workspace.sweep(study.name), plans)
    runs = sum(1 for _ in planned.first.observations())
    if runs != len(planned.rungs) * len(planned.rates):
        raise RequestError(
            f"Transfer is judged at one budget a rung; the budgets of {study.name} give others."
        )
    return planned


def left(planned: RowPlan) -> Cost:
    """What the store lacks of it."""
    return sum_costs(stage.left for stage in compare_all(planned.sweep, planned.plans).values())


def train(planned: RowPlan, config: LocalSettings, sweep_jobs: SweepJobs, watcher: Watcher) -> Trained:
    """Train here what the row lacks."""
    planned.sweep.uncancel()
    again = choose(sweep_jobs, ["failed"])
    again.apply()
    return LocalLaunch(sweep_jobs, config, watcher, again).run()


@dataclass(frozen=True, slots=True)
class RowResult:
    """What the store has of a row."""

    row: TransferRow
    """What it changes."""
    sweep: str
    """The name of its sweep."""
    rungs: tuple[str, ...]
    """Names of the rungs, the base first."""
    rates: tuple[float, ...]
    """The learning rates, rising."""
    losses: Floats
    """[rungs, seeds, rates] in nats, NaN where a run is missing and infinite where it diverged."""
    verdict: TransferVerdict | None
    """None where runs are missing, or where every run of a rung diverged."""

    @property
    def missing(self) -> int:
        return int(np.isnan(self.losses).sum())

    @property
    def why(self) -> str:
        """What the answer stands on, or why there is none."""
        if self.verdict is not None:
            return self.verdict.why
        return "runs are missing" if self.missing else "every rate diverged at one width: lower the grid"

    @property
    def holds(self) -> bool:
        """Whether it transfers, or is a contrast."""
        return not self.row.transfers or (self.verdict is not None and self.verdict.transfers == "yes")


def read_row(planned: RowPlan) -> RowResult:
    """The row's losses, and the verdict on them."""
    sweep_jobs = SweepJobs(planned.sweep, planned.plans)
    rungs, rates = planned.rungs, planned.rates
    losses = np.full((len(rungs), len(planned.plans), len(rates)), math.nan)
    for seed, plan in enumerate(planned.plans.values()):
        for job in plan.observations():
            rate = plan.point(job.point).optimizer.lr
            losses[plan.points[job.point].rung, seed, rates.index(rate)] = _loss(sweep_jobs, job)
    complete = not np.isnan(losses).any() and np.isfinite(losses.mean(axis=1)).any(axis=1).all()
    verdict = judge(np.log2(rates), losses) if complete else None
    return RowResult(planned.row, planned.sweep.name, rungs, tuple(rates), losses, verdict)


def _loss(sweep_jobs: SweepJobs, job: Job) -> float:
    planned_job = sweep_jobs.by_id[job.id]
    result = sweep_jobs.outcome(planned_job)
    if result is None:
        return math.nan
    loss = planned_job.plan.validation.loss(result.loss_nats)
    return math.inf if loss is None else loss
