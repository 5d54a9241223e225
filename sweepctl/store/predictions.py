"""Predictions as they were written down: one file each, never changed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweepctl.errors import DamagedFile
from sweepctl.plan.plan import Job, Plan
from sweepctl.spec.hashing import canonical, digest
from sweepctl.store import attempts
from sweepctl.store.files import names, read_json, storage, write_json
from sweepctl.store.workspace import Sweep


@dataclass(frozen=True, slots=True)
class PredictedLoss:
    """What is expected of one observation. Losses are in nats a token."""

    job: str
    """Its id."""
    rung: str
    """Its rung's name."""
    budget: str
    """Its budget as it was asked for."""
    n: float
    """Parameters under the study's convention."""
    d: float
    """Tokens."""
    loss_nats: float
    """The loss that the law expects."""
    interval: tuple[float, float]
    """Where the law itself lies there."""
    run_interval: tuple[float, float]
    """Where a run that is yet to be made lies."""
    parts: dict[str, float] | None = None
    """What that interval is made of: half-widths, as shares of the loss; None of an early version."""

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> PredictedLoss:
        """One that was written down."""
        return cls(**{**row, "interval": tuple(row["interval"]), "run_interval": tuple(row["run_interval"])})


@dataclass(frozen=True, slots=True)
class StagePrediction:
    """What is expected of a stage."""

    stage: str
    """Its name."""
    prior: bool
    """Whether it was made before any of these observations had begun."""
    observations: list[PredictedLoss]
    """One each."""

    def record(self) -> dict[str, Any]:
        """As it is printed, and written down with where it comes from."""
        rows = [
            {**asdict(row), "interval": list(row.interval), "run_interval": list(row.run_interval)}
            for row in self.observations
        ]
        return {"stage": self.stage, "prior": self.prior, "observations": rows}


def folder(sweep: Sweep) -> Path:
    return sweep.folder / "predictions"


def every(sweep: Sweep) -> list[dict[str, Any]]:
    """All predictions, oldest first.

    Raises:
        DamagedFile: one is not what was written down.
    """
    predictions = []
    files = [name for name in names(folder(sweep)) if name.endswith(".json") and not name.startswith(".")]
    for path in (folder(sweep) / name for name in files):
        prediction = read_json(path)
        if not _is_prediction(prediction, path.stem):
            raise DamagedFile(f"{path} is not the prediction that was written down; move it away.")
        predictions.append(prediction)
    return sorted(predictions, key=lambda p: str(p["written"]))


def _is_prediction(prediction: dict[str, Any], name: str) -> bool:
    try:
        of_runs = [] if prediction.get("kind") == "recipe" else prediction["observations"]
        rows = list(map(PredictedLoss.read, of_runs))
        pairs = [(row.interval, row.run_interval) for row in rows]
        whole = all(len(interval) == 2 for pair in pairs for interval in pair)
        numbers = [x for row in rows for x in (row.n, row.d, row.loss_nats, *row.interval, *row.run_interval)]
        whole &= "written" in prediction and all(isinstance(x, (int, float)) for x in numbers)
        return whole and digest(canonical(prediction)) == name
    except (LookupError, TypeError, ValueError, RecursionError):
        return False


def prior(sweep: Sweep) -> dict[str, PredictedLoss]:
    """Job id -> the first prediction of that observation that was written before it began."""
    rows: dict[str, PredictedLoss] = {}
    for prediction in every(sweep):
        if prediction.get("prior"):
            for row in map(PredictedLoss.read, prediction["observations"]):
                rows.setdefault(row.job, row)
    return rows


def unpredicted(sweep: Sweep, plan: Plan) -> tuple[list[Job], list[Job]]:
    """Observations without a prediction that was made beforehand: those that have not begun, for which it can
    still be made, and those that have.

    A run has begun with its first attempt, or with its trunk's, unless that trunk serves another stage too or
    runs of it were predicted before. What another stage probes is measured before, and nothing to predict.
    """
    predicted = prior(sweep)
    plans = sweep.plans().values()
    not_asked = predicted.keys() | probed_elsewhere(plan, plans)
    fresh: list[Job] = []
    late: list[Job] = []
    for job in plan.observations():
        if job.id in not_asked:
            continue
        has_begun = attempts.newest(sweep.workspace.job(job.id)) is not None
        if not has_begun and job.trunk is not None:
            shared = sum(job.trunk in other.by_id for other in plans) > 1
            tells_nothing = shared or any(branch.id in predicted for branch in plan.branches[job.trunk])
            has_begun = not tells_nothing and attempts.newest(sweep.workspace.job(job.trunk)) is not None
        (late if has_begun else fresh).append(job)
    return fresh, late


def probed_elsewhere(plan: Plan, plans: Iterable[Plan]) -> set[str]:
    """Jobs of a stage's plan that another stage probes: trained whatever holds the stage back."""
    others = [other for other in plans if other.probes and other.stage != plan.stage]
    return {job for other in others for job in other.by_id if job in plan.by_id}


def write(sweep: Sweep, prediction: dict[str, Any]) -> Path:
    """Write a prediction down, with the time; its file."""
    prediction = {**prediction, "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    path = folder(sweep) / f"{digest(canonical(prediction))}.json"
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, prediction)
    return path
