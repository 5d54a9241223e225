"""Tables hold the science, one lineage of curves, and nothing that was not measured."""

from __future__ import annotations

import json

import pandas as pd

from sweepctl.collect.tables import collect
from sweepctl.data.shards import CorpusIndex, content_hash, read_index
from sweepctl.launch.stages import plan_stages
from sweepctl.spec.accounting import FLOP_COUNTS, PARAMETER_COUNTS
from sweepctl.spec.build import build
from sweepctl.store import attempts
from sweepctl.store.files import read_json, write_json
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.store.workspace import Workspace
from tests.conftest import Planner, StopAfter, only, run_all, run_job, tiny, tree


def test_the_same_science_gives_the_same_bytes_however_it_ran(planned: Planner) -> None:
    """Two runs that differ in everything but science: micro-batches of the same size, kept, logged, named."""
    sweep_jobs = planned(name="one")
    run_all(sweep_jobs, keep="none", log_every_steps=1)
    collect(sweep_jobs)
    other = planned(name="two")
    for planned_job in other.by_id.values():
        for path in sorted(planned_job.folder.path.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    run_all(other, log_every_steps=7, checkpoint_every_s=0.01)
    collect(other)
    table, table_of_other = sweep_jobs.sweep.folder / "runs.parquet", other.sweep.folder / "runs.parquet"
    assert table.read_bytes() == table_of_other.read_bytes()
    facts = {"host", "started", "ended", "device", "pid", "path", "folder", "attempt", "attempts"}
    assert not facts & set(pd.read_parquet(table).columns)


def test_every_count_of_n_and_c_is_a_column(planned: Planner) -> None:
    sweep_jobs = planned()
    run_all(sweep_jobs)
    runs = collect(sweep_jobs)["runs"]
    assert {f"n_{name}" for name in PARAMETER_COUNTS} <= set(runs) >= {f"flops_{n}" for n in FLOP_COUNTS}
    assert (runs["state"] == "done").all() and runs["job"].is_unique
    for row in runs.itertuples():
        result = sweep_jobs.by_id[row.job].folder.result()
        assert result is not None and row.loss_nats == result.loss_nats["validation"]
        assert row.loss_nats_validation == row.loss_nats
        assert row.tokens == row.steps * 64 == result.tokens
        assert row.bits_per_byte == result.bits_per_byte["validation"]
    assert (runs["flops_six_n"] == 6.0 * runs["n_non_embedding"] * runs["tokens"]).all()


def test_what_was_not_measured_is_missing_never_zero(planned: Planner) -> None:
    wild = {"parametrization__name": "standard", "parametrization__zero_head": False}
    sweep_jobs = planned(grid={"axes": {"optimizer.lr": [0.02, 1e30]}}, ladder__depths=[1], **wild)
    [trunk, *_] = only(sweep_jobs, "trunk")
    sweep_jobs.make_wishes()
    for planned_job in only(sweep_jobs, "trunk"):
        run_job(sweep_jobs, planned_job)
    run_job(sweep_jobs, next(e for e in only(sweep_jobs, "branch") if e.job.trunk == trunk.job.id))
    runs = collect(sweep_jobs)["runs"]
    assert sorted(runs["state"]) == ["diverged", "diverged", "done", "missing"]
    absent = runs[runs["state"] != "done"]
    assert absent["loss_nats"].isna().all() and absent["bits_per_byte"].isna().all()
    assert set(runs[runs["state"] == "diverged"]["reason"]) == {"its trunk diverged before the cut"}


def test_the_loss_is_that_of_the_set_which_the_study_names(workspace: Workspace) -> None:
    """In tables and in what a stage takes from another; every other set has its own columns."""
    file = workspace.corpus("synthetic") / "index.json"
    raw = read_json(file)
    raw["splits"]["code"] = raw["splits"]["train"]
    splits = build(CorpusIndex, raw).splits
    raw["hash"] = content_hash(raw["tokenizer"], raw["vocab_size"], raw["dtype"], splits)
    write_json(file, raw)
    study = tiny(
        ladder__depths=[1],
        validation__loss_on="code",
        stages={
            "lr": {"grid": {"axes": {"optimizer.lr": [0.02, 0.04]}}, "budget": {"tokens": [1280]}},
            "rest": {"take": {"optimizer.lr": {"stage": "lr"}}},
        },
    )
    sweep = workspace.sweep(study.name)
    for _ in study.stages:
        sweep.save(plan_stages(workspace, study, read_index(file.parent).facts)[0])
        run_all(SweepJobs(sweep, sweep.plans()))
    frames = collect(SweepJobs(sweep, sweep.plans()))
    chosen = frames["runs"][frames["runs"]["stage"].str.startswith("lr")]
    assert sorted(sweep.plans()["rest"].taken[0].losses.values()) == sorted(chosen["loss_nats_code"])
    assert (chosen["bits_per_byte"] == chosen["bits_per_byte_code"]).all()
    for rows in (chosen, frames["curves"].dropna(subset=["loss_nats_code"])):
        assert len(rows) and (rows["loss_nats"] == rows["loss_nats_code"]).all()
        assert (rows["loss_nats"] != rows["loss_nats_validation"]).all()


def test_curves_follow_one_lineage_across_attempts(planned: Planner, monkeypatch) -> None:
    """Every step once, in order, and the same losses as of a run that was left alone."""
    monkeypatch.setattr("sweepctl.train.loop.GLANCE_S", 0.0)
    sweep_jobs = planned(ladder__depths=[1])
    sweep_jobs.make_wishes()
    [trunk] = only(sweep_jobs, "trunk")
    for _ in range(2):
        assert run_job(sweep_jobs, trunk, StopAfter(7), log_every_steps=1).why == "stopped"
    last = attempts.every(trunk.folder)[-1]
    # A killed writer's rows beyond its checkpoint, and half a line.
    with open(last.metrics, "a") as file:
        file.write(
            json.dumps({"step": last.record["end_step"] + 1, "train_loss_nats": 99.0}) + '\n{"step": 3'
        )
    run_all(sweep_jobs, log_every_steps=1)
    curve = collect(sweep_jobs)["curves"]
    of_trunk = curve[(curve["job"] == trunk.job.id) & curve["train_loss_nats"].notna()]
    assert of_trunk["step"].tolist() == list(range(1, trunk.job.end + 1))
    assert (of_trunk["train_loss_nats"] < 99).all()


def test_points_that_another_study_measured_otherwise_are_left_out(planned: Planner) -> None:
    """Its jobs are shared with one that evaluates curves on other held-out tokens."""
    theirs = planned(name="theirs", ladder__depths=[1], validation__curve_tokens=512)
    mine = planned(name="mine", ladder__depths=[1], validation__curve_tokens=1024)
    run_all(theirs)
    curves = collect(mine)["curves"]
    assert len(collect(theirs)["curves"]["loss_nats"].dropna()) > 0
    assert "loss_nats" not in curves and len(curves["train_loss_nats"].dropna()) > 0


def test_csv_says_the_same(planned: Planner) -> None:
    sweep_jobs = planned()
    run_all(sweep_jobs)
    runs = collect(sweep_jobs, csv=True)["runs"]
    read = pd.read_csv(sweep_jobs.sweep.folder / "runs.csv")
    assert read["loss_nats"].tolist() == runs["loss_nats"].tolist() and list(read) == list(runs)


def test_collecting_changes_nothing_in_the_store(planned: Planner) -> None:
    sweep_jobs = planned()
    run_all(sweep_jobs)
    before = tree(sweep_jobs.sweep.workspace.root / "store")
    collect(sweep_jobs)
    assert tree(sweep_jobs.sweep.workspace.root / "store") == before
