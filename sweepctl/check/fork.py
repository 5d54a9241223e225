"""Whether a branch is the straight run: trains both through the store, as a launch would, and compares."""

from __future__ import annotations

import dataclasses
import math
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from sweepctl.check.apart import run_apart
from sweepctl.errors import InvalidValue, WorkFailed
from sweepctl.plan.expand import expand
from sweepctl.spec.accounting import hidden_parameters
from sweepctl.spec.budget import Budgets
from sweepctl.spec.build import plain
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.execution import Execution
from sweepctl.spec.grid import Grid
from sweepctl.spec.study import Stage, Study
from sweepctl.store import checkpoints
from sweepctl.store.ends import End
from sweepctl.store.facts import Dispatch
from sweepctl.store.files import storage
from sweepctl.store.job import JobFolder
from sweepctl.store.protocol import Progress, Saved
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from sweepctl.store.workspace import Workspace
from sweepctl.train.device import machine
from sweepctl.train.job import run

STEPS, VALIDATION_TOKENS = 60, 16384
TOLERANCE = 3.0
"""How many times the distance between two equal runs a branch may be from the straight run, where equal runs
differ at all. One such distance is a single draw: two draws seldom differ by so much."""
INTERRUPT_AFTER = 2
"""Updates after which an interrupted job dies, once in the trunk and once in its branch."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a run ends from the straight run."""

    what: str
    """The run."""
    weights: float
    """Of all weights: the root mean square of the difference over that of the straight run."""
    state: float
    """The same of all that the optimizer keeps."""
    loss: float
    """The largest difference of a held-out loss, in nats."""
    exact: bool
    """Whether every bit of weights, state and losses is the same."""

    def within(self, noise: Distance) -> bool:
        """Whether it is no further away than equal runs are; the loss, one noisy number, is not judged."""
        return (
            noise.weights > 0
            and self.weights <= TOLERANCE * noise.weights
            and self.state <= TOLERANCE * noise.state
        )


@dataclass(frozen=True, slots=True)
class ForkResult:
    """The check's outcome."""

    rung: str
    """The rung that was trained."""
    steps: int
    """Updates of the straight run."""
    cut: int | None
    """The step at which the branch leaves its trunk; None where the schedule cannot fork."""
    warmup_steps: int
    """Of the runs: the study's, or fewer where they are short."""
    own_warmup_steps: int
    """The study's own."""
    device: str
    """Where they were trained."""
    precision: str
    """In which they were trained."""
    compiled: bool
    """Whether the model was compiled."""
    deterministic: bool
    """Whether deterministic algorithms were asked for."""
    apart: bool
    """Whether every attempt was a process of its own, with nothing compiled before."""
    compared: tuple[Distance, ...]
    """Of the branch and of the resumed run."""
    noise: Distance | None
    """How far two equal runs are apart; None where it was not needed."""

    @property
    def exact(self) -> bool:
        return all(run.exact for run in self.compared)

    @property
    def holds(self) -> bool:
        noise = self.noise
        return self.exact or (noise is not None and all(run.within(noise) for run in self.compared))

    @property
    def summary(self) -> str:
        """The verdict in words."""
        names = " and ".join(run.what for run in self.compared)
        if self.exact:
            equal = "equal" if len(self.compared) > 1 else "equals"
            return f"{names} {equal} the straight run bit for bit: weights, optimizer state and loss"
        worst = max(self.compared, key=lambda run: run.weights)
        distance = f"the weights of {worst.what} are {worst.weights:.2g} from the straight run's"
        if self.noise is None:
            return f"{distance}; in fp32 on a CPU they must be equal"
        if self.noise.exact:
            return f"{distance}, while two equal runs end bit for bit the same"
        return (
            f"{distance} (its optimizer state {worst.state:.2g}); two equal runs are {self.noise.weights:.2g}"
            f" apart ({self.noise.state:.2g}), and {TOLERANCE:g} times that is allowed"
        )

    def record(self) -> dict[str, Any]:
        """The same as JSON; a distance that is not finite is null."""
        fields = {"check": "fork", "holds": self.holds, "exact": self.exact, "told": self.summary}
        return {**fields, **plain(self), "compared": [_finite(run) for run in self.compared]} | {
            "noise": _finite(self.noise) if self.noise else None,
            "tolerance": TOLERANCE,
        }


def check(
    workspace: Workspace,
    study: Study,
    corpus: CorpusFacts,
    rung: int | None,
    steps: int | None,
    execution: Execution,
    say: Say,
    apart: bool | None = None,
) -> ForkResult:
    """Train a straight run, a trunk with its branch, and the same two interrupted and resumed, in a store of
    their own that is deleted afterwards. A schedule that cannot fork has its straight run interrupted. Each
    attempt is a process of its own where models are compiled, or `apart` says so: a compiler chooses kernels
    by what it has timed, and a branch on another node has nothing of what its trunk's left on disk.

    Raises:
        RequestError: there is no such rung, or the budget is too short for the schedule.
        WorkFailed: a run did not get to its end.
    """
    steps = STEPS if steps is None else steps
    if steps < 4:
        raise InvalidValue("--steps", steps, "at least 4")
    forked = short(study, rung, steps)
    straight = dataclasses.replace(forked, schedule=forked.schedule.with_fork(False))
    where = machine(execution, study.precision)
    apart = where.compiled if apart is None else apart
    execution = dataclasses.replace(execution, keep="all", compile=where.compiled)
    with _folder(workspace) as folder:
        trial = _TrialRuns(folder, workspace.corpus(study.data.name), corpus, execution, say, apart)
        reference = trial.train("straight", straight)
        resumed = trial.train("interrupted", forked, interrupt=True)
        compared = [_distance("the resumed one", resumed, reference)]
        if forked.schedule.forks:
            compared.insert(0, _distance("the branch", trial.train("forked", forked), reference))
        noise = None
        judged_exactly = where.device.type == "cpu" and study.precision == "fp32"
        if not judged_exactly and not all(run.exact for run in compared):
            noise = _distance("an equal run", trial.train("straight-again", straight), reference)
        plan = expand(forked, "all", corpus)
        last = max(plan.observations(), key=lambda job: job.end)
        return ForkResult(
            rung=plan.rungs[0].name,
            steps=last.end,
            cut=last.cut if forked.schedule.forks else None,
            warmup_steps=plan.base.warmup_steps,
            own_warmup_steps=study.schedule.warmup(study.batch.tokens),
            device=where.name,
            precision=study.precision,
            compiled=where.compiled,
            deterministic=where.deterministic,
            apart=apart,
            compared=tuple(compared),
            noise=noise,
        )


def short(study: Study, rung: int | None, steps: int) -> Study:
    """The study with one rung (by default the smallest) and one budget of so many steps, without its grid and
    stages; its warmup shortened to a quarter of the budget where it is longer."""
    shapes = study.ladder.shapes(study.model)
    if rung is None:
        rung = min(range(len(shapes)), key=lambda i: hidden_parameters(shapes[i], study.model))
    if not 0 <= rung < len(shapes):
        raise InvalidValue("--rung", rung, f"the place of one of the {len(shapes)} rungs, from 0")
    schedule = study.schedule
    if schedule.warmup(study.batch.tokens) > steps // 4:
        schedule = dataclasses.replace(schedule, warmup_steps=steps // 4, warmup_tokens=None)
    budget = Budgets(tokens=(float(steps * study.batch.tokens),))
    return dataclasses.replace(
        study,
        schedule=schedule,
        grid=Grid(),
        budget=budget,
        validation=dataclasses.replace(
            study.validation, tokens=VALIDATION_TOKENS, curve_tokens=VALIDATION_TOKENS, curve_per_octave=0
        ),
        stages={"all": Stage(rungs=(rung,))},
    )


class _Interrupted(Exception):
    """Ends an attempt as if its process had died after a checkpoint."""


@dataclass(frozen=True, slots=True)
class _TrialRuns:
    """Trains whole studies, each in a workspace of its own below `folder`."""

    folder: Path
    data: Path
    corpus: CorpusFacts
    execution: Execution
    say: Say
    apart: bool

    def train(self, name: str, study: Study, interrupt: bool = False) -> JobFolder:
        """Every job of the study, trunk first; the folder of the one that ends in a loss."""
        sweep = Workspace(self.folder / name).sweep("check")
        sweep.save({"all": expand(study, "all", self.corpus)})
        sweep_jobs = SweepJobs(sweep, sweep.plans())
        sweep_jobs.make_wishes()
        planned_jobs = sorted(
            sweep_jobs.by_id.values(), key=lambda planned_job: planned_job.job.kind != "trunk"
        )
        for planned_job in planned_jobs:
            if interrupt:
                self._run(name, sweep_jobs, planned_job, dying=True)
            self._run(name, sweep_jobs, planned_job)
        return next(planned_job.folder for planned_job in planned_jobs if planned_job.job.kind != "trunk")

    def _run(self, name: str, sweep_jobs: SweepJobs, planned_job: PlannedJob, dying: bool = False) -> None:
        """One attempt, through the trainer's own path; with `dying` it checkpoints every update, and dies
        after the first few."""
        execution = dataclasses.replace(self.execution, checkpoint_every_s=1e-9 if dying else 1e9)
        saved = 0

        def report(event: Progress | Saved) -> None:
            nonlocal saved
            self.say(f"{name}: {planned_job.job.kind}, step {event.step} of {planned_job.job.end}")
            saved += isinstance(event, Saved)
            if dying and saved == INTERRUPT_AFTER:
                raise _Interrupted

        self.say(f"{name}: {planned_job.job.kind}")
        manifest = sweep_jobs.manifest(planned_job, execution, Dispatch(launcher="check"))
        manifest = dataclasses.replace(manifest, data=str(self.data), final_state=True)
        try:
            outcome = run_apart(manifest, report) if self.apart else run(manifest, threading.Event(), report)
        except _Interrupted:  # killed
            return
        died = dying and saved == INTERRUPT_AFTER
        if outcome.why is not End.DONE and not died:
            why = outcome.message.strip().splitlines()[-1:] or [outcome.why]
            raise WorkFailed(f"The {planned_job.job.kind} of {name} ended as {outcome.why}: {why[0]}")


@contextmanager
def _folder(workspace: Workspace) -> Iterator[Path]:
    """A folder of the workspace that is gone afterwards."""
    folder = workspace.root / "checks" / f".fork-{uuid.uuid4().hex[:8]}"
    with storage(folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _distance(what: str, job: JobFolder, straight: JobFolder) -> Distance:
    weights, same_weights = _difference(job, straight, "weights.safetensors")
    state, same_state = _difference(job, straight, "optimizer.safetensors")
    ours, theirs = _losses(job), _losses(straight)
    loss = max(abs(ours[name] - theirs[name]) for name in theirs)
    return Distance(what, weights, state, loss, same_weights and same_state and ours == theirs)


def _difference(job: JobFolder, straight: JobFolder, file: str) -> tuple[float, bool]:
    """The relative root mean square of the difference of all tensors, and whether every bit is the same."""
    ours, theirs = _tensors(job, file), _tensors(straight, file)
    if ours.keys() != theirs.keys():
        return math.inf, False
    apart = whole = 0.0
    exact = True
    for name, tensor in theirs.items():
        exact = exact and ours[name].tobytes() == tensor.tobytes()
        apart += float(np.square(ours[name].astype(np.float64) - tensor).sum())
        whole += float(np.square(tensor.astype(np.float64)).sum())
    return (math.sqrt(apart / whole) if whole else math.inf if apart else 0.0), exact


def _tensors(job: JobFolder, file: str) -> dict[str, Any]:
    last = checkpoints.at(job, max(checkpoints.steps(job)))
    tensors: dict[str, Any] = load_file(last.path / file)
    return tensors


def _losses(job: JobFolder) -> dict[str, float]:
    result = job.result()
    assert result is not None
    return dict(result.loss_nats)


def _finite(distance: Distance) -> dict[str, Any]:
    fields: dict[str, Any] = plain(distance)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}
