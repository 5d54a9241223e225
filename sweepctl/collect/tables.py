"""The three tables of a sweep.

`runs` has one row an observation and no execution facts: two stores with the same science give the same
bytes. `curves` has the points along every run, `attempts` who ran what, where, how fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from sweepctl.collect.families import seams
from sweepctl.plan.plan import Job, Plan
from sweepctl.spec.accounting import FLOP_COUNTS, PARAMETER_COUNTS, Accounting
from sweepctl.spec.build import plain
from sweepctl.spec.science import Point
from sweepctl.store import attempts, metrics
from sweepctl.store.attempts import Attempt
from sweepctl.store.files import replacing
from sweepctl.store.job import JobFolder
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs

TABLES = ("runs", "curves", "attempts")
ATTEMPT_FIELDS = (
    *("attempt", "launcher", "scheduler_id", "host", "pid", "device", "gemm", "compiled"),
    *("cuda_graphs", "deterministic", "loss_chunks", "started", "ended", "why", "error"),
    *("start_step", "end_step", "trained_tokens", "train_s", "tokens_per_s", "mfu", "code"),
)


def collect(sweep_jobs: SweepJobs, csv: bool = False) -> dict[str, pd.DataFrame]:
    """Read the store and write the three tables where the sweep's results go; the tables."""
    curves: list[dict[str, Any]] = []
    tried: list[dict[str, Any]] = []
    histories = {job: attempts.every(planned.folder) for job, planned in sweep_jobs.by_id.items()}
    mixed = seams(histories)
    for job, planned_job in sweep_jobs.by_id.items():
        curves += _curves(planned_job, histories[job])
        tried += [
            row | {"seam": mixed.get((job, row["attempt"]))} for row in _attempts(planned_job, histories[job])
        ]
    rows = {"runs": _runs(sweep_jobs), "curves": curves, "attempts": tried}
    frames = {name: pd.DataFrame(rows[name]) for name in TABLES}
    for name, frame in frames.items():
        write_table(frame, sweep_jobs.sweep.results / f"{name}.parquet")
        if csv:
            write_table(frame, sweep_jobs.sweep.results / f"{name}.csv")
    return frames


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table in one step, as Parquet or CSV by its ending."""
    with replacing(path) as scratch:
        if path.suffix == ".csv":
            frame.to_csv(scratch, index=False)
        else:
            frame.to_parquet(scratch, index=False)


def _runs(sweep_jobs: SweepJobs) -> list[dict[str, Any]]:
    """One row an observation; one that several stages want is theirs together."""
    rows: dict[str, dict[str, Any]] = {}
    for stage, plan in sweep_jobs.plans.items():
        points: dict[int, dict[str, Any]] = {}
        for job in plan.observations():
            if job.id in rows:
                rows[job.id]["stage"] += f" {stage}"
                rows[job.id]["for_fit"] |= plan.fit
                continue
            if job.point not in points:
                points[job.point] = _point_columns(plan, job.point)
            planned_job = sweep_jobs.by_id[job.id]
            identity = {"job": job.id, "trunk": job.trunk, "stage": stage, "for_fit": plan.fit}
            identity["budget"] = job.label
            rows[job.id] = (
                identity | points[job.point] | _counts(plan, job) | _result_columns(sweep_jobs, planned_job)
            )
    return list(rows.values())


def _counts(plan: Plan, job: Job) -> dict[str, Any]:
    """Every count of N, D and C, and how the run left the plateau: at which step, along which shape, or by
    which drops (step:multiplier)."""
    tokens, counts, anneal = plan.tokens(job), plan.counts(job), plan.anneal(job)
    assert anneal is not None
    cycles = plan.points[job.point].cycles
    cut = next((cut for cut, end in cycles.decays if end == job.end), anneal.cut) if cycles else anneal.cut
    row: dict[str, Any] = {"requested_tokens": job.requested_tokens, "tokens": tokens, "steps": job.end}
    row |= {"schedule": plan.schedule_of(job.point).kind}
    row |= {"cut_step": cut, "decay": anneal.shape, "end_lr_share": anneal.end_lr_share}
    if anneal.drops:
        row["drops"] = " ".join(f"{step:g}:{share}" for step, share in anneal.drops)
    row |= {f"n_{name}": counts.parameters(name) for name in PARAMETER_COUNTS}
    for name in FLOP_COUNTS:
        per_token = counts.flops_per_token(Accounting(plan.accounting.parameters, name))
        row[f"flops_{name}"] = float(tokens) * per_token
    row["tokens_per_parameter"] = tokens / counts.parameters(plan.accounting.parameters)
    return row


def _point_columns(plan: Plan, index: int) -> dict[str, Any]:
    point: Point = plan.point(index)
    row = plan.points[index]
    return {
        "rung": plan.rungs[row.rung].name,
        **plain(point.shape),
        "lr": point.optimizer.lr,
        "batch_tokens": point.batch.tokens,
        "context": point.batch.context,
        "warmup_steps": point.warmup_steps,
        "parametrization": point.parametrization.name,
        "optimizer": point.optimizer.name,
        "precision": point.precision,
        "seed_init": point.seed.init,
        "seed_data": point.seed.data,
        "corpus": point.corpus.hash,
        **{f"setting_{path}": value for path, value in sorted(row.settings.items())},
    }


def _result_columns(sweep_jobs: SweepJobs, planned_job: PlannedJob) -> dict[str, Any]:
    """State and losses; what was not measured is absent, never zero."""
    result = sweep_jobs.outcome(planned_job)
    if result is None:
        return {"state": "missing"}
    row: dict[str, Any] = {"state": result.end.value, "reason": result.reason or None}
    counted = planned_job.plan.validation.counted(result.loss_nats)
    if counted is not None and counted in result.loss_nats:
        row |= {"loss_nats": result.loss_nats[counted], "bits_per_byte": result.bits_per_byte.get(counted)}
    for name, loss in result.loss_nats.items():
        row |= {f"loss_nats_{name}": loss, f"bits_per_byte_{name}": result.bits_per_byte.get(name)}
    return row


def _attempts(planned_job: PlannedJob, history: list[Attempt]) -> list[dict[str, Any]]:
    rows = []
    for attempt in history:
        facts, origin = attempt.facts, attempt.facts.started_from
        row: dict[str, Any] = {
            "job": planned_job.job.id,
            "kind": planned_job.job.kind,
            "rung": _rung(planned_job),
        }
        row |= {name: getattr(facts, name) for name in ATTEMPT_FIELDS}
        row |= {"from_job": origin.job if origin else None, "from_step": origin.step if origin else None}
        row |= {f"version_{k}": str(v) for k, v in facts.versions.items()}
        rows.append(row)
    return rows


def _curves(planned_job: PlannedJob, history: list[Attempt]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    names = {"job": planned_job.job.id, "kind": planned_job.job.kind, "rung": _rung(planned_job)}
    for line in lineage(planned_job.folder, history, planned_job.plan.validation.curve_tokens):
        losses = line.pop("loss_nats", {})
        loss = planned_job.plan.validation.loss(losses)
        rows.append(
            names
            | line
            | ({} if loss is None else {"loss_nats": loss})
            | {f"loss_nats_{name}": value for name, value in losses.items()}
        )
    return rows


def lineage(
    folder: JobFolder, history: list[Attempt], curve_tokens: int | None = None
) -> list[dict[str, Any]]:
    """A job's metrics along the one line of attempts that its newest attempt stands on: of every earlier
    attempt, only the steps up to the checkpoint that was taken over. With `curve_tokens`, without the points
    that an attempt for another study measured on another number of held-out tokens."""
    every = {attempt.number: attempt for attempt in history}
    parts: list[list[dict[str, Any]]] = []
    begun = [number for number, attempt in every.items() if attempt.facts.start_step is not None]
    number, last = max(begun, default=0), None
    while number in every:
        attempt = every[number]
        rows = metrics.read(attempt.metrics)
        if curve_tokens not in (None, attempt.facts.execution.get("curve_tokens", curve_tokens)):
            rows = [row for row in rows if "loss_nats" not in row]
        parts.append([row for row in rows if last is None or row["step"] <= last])
        origin = attempt.facts.started_from
        # A checkpoint is of an earlier attempt, unless attempts were deleted and their numbers begin anew.
        if origin is None or origin.job != folder.id or origin.attempt >= number:
            break
        number, last = origin.attempt, origin.step
    return [row for part in reversed(parts) for row in part]


def _rung(planned_job: PlannedJob) -> str:
    return planned_job.plan.rung_of(planned_job.job).name
