"""`sweepctl launch` as a batch job, as the README tells: submitted twice, requeued, told to end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sweepctl.collect.tables import collect
from sweepctl.store import attempts
from tests.conftest import Planner, Undisturbed, only

from .test_box import ask, state, submit, until

LINE = f"exec {sys.executable} -m sweepctl launch batch workers=1 execution.checkpoint_every_s=0.2"


def test_the_same_line_submitted_twice_and_requeued_trains_each_job_once(
    box: Any,
    planned: Planner,
    tmp_path: Path,
    undisturbed: Undisturbed,
) -> None:
    seeds = {"axes": {"seed.init": [0, 1]}}
    sweep_jobs = planned(name="batch", ladder__depths=[1], budget__tokens=[64_000, 128_000], grid=seeds)
    first = submit(box, tmp_path, LINE, "--partition=preempt", "--requeue", "--nodelist=node1")
    second = submit(box, tmp_path, LINE, "--partition=preempt", "--requeue", "--nodelist=node2")
    until(lambda: any(attempts.newest(planned_job.folder) for planned_job in only(sweep_jobs, "trunk")))
    ask(box, "scontrol", "requeue", first)
    for job in (first, second):
        until(lambda job=job: state(box, job) in ("COMPLETED", "FAILED", ""), 600)
    collect(sweep_jobs)
    assert (sweep_jobs.sweep.folder / "runs.parquet").read_bytes() == undisturbed.runs(sweep_jobs)
    for planned_job in sweep_jobs.by_id.values():
        trained = sum(a.record.get("trained_tokens") or 0 for a in attempts.every(planned_job.folder))
        assert trained == planned_job.steps_to_train * 64, planned_job.name


def test_a_job_that_is_told_to_end_saves_its_state(box: Any, planned: Planner, tmp_path: Path) -> None:
    """SIGTERM to the batch script, as at a time limit or by scancel --batch."""
    sweep_jobs = planned(name="batch", ladder__depths=[1], budget__tokens=[6_400_000])
    [trunk] = only(sweep_jobs, "trunk")
    job = submit(box, tmp_path, LINE)
    until(lambda: (last := attempts.newest(trunk.folder)) and last.progress().get("step", 0) > 50)
    ask(box, "scancel", "--batch", "--signal=TERM", job)
    until(lambda: state(box, job) in ("COMPLETED", "FAILED", "CANCELLED", ""))
    [attempt] = attempts.every(trunk.folder)
    assert attempt.record["why"] == "stopped"
    assert sweep_jobs.state(sweep_jobs.by_id[trunk.job.id]).step == attempt.record["end_step"] > 50
