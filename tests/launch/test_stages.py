"""Stages: values taken from results, stages held back, plans held against the store, cleaning."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sweepctl.errors import RequestError
from sweepctl.launch import clean
from sweepctl.launch.compare import compare
from sweepctl.launch.prepare import launchable
from sweepctl.launch.stage_values import MissingResults
from sweepctl.launch.stages import plan_stages
from sweepctl.plan.optimum import optimum
from sweepctl.plan.plan import load
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.store import attempts, checkpoints
from sweepctl.store.ends import End
from sweepctl.store.result import Result
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.store.throughput import Rate, measured
from sweepctl.store.workspace import Workspace
from tests.conftest import Planner, only, run_all, tiny, tree
from tests.grids import bowl, finish

STAGES: dict[str, Any] = {
    "lr": {
        "rungs": [0],
        "grid": {"axes": {"optimizer.lr": [0.001, 0.01, 0.1]}},
        "budget": {"tokens": [1280]},
    },
    "all": {"take": {"optimizer.lr": {"stage": "lr"}}},
    "top": {"rungs": [1], "budget": {"tokens": [5120, 2560]}, "predict_first": True},
}


def staged(
    workspace: Workspace, facts: CorpusFacts, study_changes: dict[str, Any] | None = None, **stages: Any
) -> tuple[SweepJobs, dict[str, MissingResults]]:
    study = tiny(name="staged", stages={**STAGES, **stages}, **(study_changes or {}))
    plans, waiting = plan_stages(workspace, study, facts)
    sweep = workspace.sweep("staged")
    sweep.save(plans)
    return SweepJobs(sweep, plans), waiting


def test_a_stage_waits_for_what_it_takes_and_then_freezes_it(
    workspace: Workspace, facts: CorpusFacts
) -> None:
    sweep_jobs, waiting = staged(workspace, facts)
    assert set(sweep_jobs.plans) == {"lr", "top"}
    assert waiting == {"all": MissingResults("lr", "optimizer.lr", 3, 3)}
    run_all(SweepJobs(sweep_jobs.sweep, {"lr": sweep_jobs.plans["lr"]}))
    sweep_jobs, waiting = staged(workspace, facts)
    assert not waiting
    [taken] = sweep_jobs.plans["all"].taken
    losses = {
        e.plan.points[e.job.point].settings["optimizer.lr"]: e.folder.result().loss_nats  # type: ignore[index]
        for e in only(sweep_jobs, "branch")
        if e.plan.stage == "lr"
    }
    means = {lr: next(iter(loss.values())) for lr, loss in losses.items()}
    assert taken.value == optimum({lr: {"": loss} for lr, loss in means.items()}).value
    assert taken.losses == {repr(lr): loss for lr, loss in means.items()}
    assert taken.plan == sweep_jobs.plans["lr"].hash
    assert {sweep_jobs.plans["all"].point(j.point).optimizer.lr for j in sweep_jobs.plans["all"].jobs} == {
        taken.value
    }


def test_the_best_over_other_axes_and_the_mean_over_seeds_count(
    workspace: Workspace, facts: CorpusFacts
) -> None:
    axes = {"optimizer.lr": [0.01, 0.02], "optimizer.weight_decay": [0.0, 0.2], "seed.init": {"seeds": 2}}
    losses = {
        (0.01, 0.0): (3.0, 3.0),
        (0.01, 0.2): (2.0, 2.2),
        (0.02, 0.0): (2.5, 2.5),
        (0.02, 0.2): (1.9, 2.9),
    }
    stages = {"lr": {**STAGES["lr"], "grid": {"axes": axes}}}
    sweep_jobs, _ = staged(workspace, facts, **stages)
    for job in sweep_jobs.plans["lr"].observations():
        point = sweep_jobs.plans["lr"].point(job.point)
        loss = losses[point.optimizer.lr, point.optimizer.weight_decay][point.seed.init]
        folder = workspace.job(job.id)
        folder.path.mkdir(parents=True)
        folder.write_result(Result(End.DONE, job.end, loss_nats={"validation": loss}))
    sweep_jobs, _ = staged(workspace, facts, **stages)
    [taken] = sweep_jobs.plans["all"].taken
    assert taken.value == 0.01 and taken.losses == {"0.01": 2.1, "0.02": 2.4}
    assert taken.best_over == ("optimizer.weight_decay",) and taken.flags == ("edge",)


def test_the_vertex_is_taken_unless_the_lowest_is_asked_for(workspace: Workspace, facts: CorpusFacts) -> None:
    rates = [0.0025, 0.005, 0.01, 0.02, 0.04]
    lr = {**STAGES["lr"], "grid": {"axes": {"optimizer.lr": rates, "seed.init": {"seeds": 2}}}}
    sweep_jobs, _ = staged(workspace, facts, lr=lr)
    finish(workspace, sweep_jobs.plans["lr"], lambda point: bowl(point.optimizer.lr, point.seed.init))
    [vertex] = staged(workspace, facts, lr=lr)[0].plans["all"].taken
    assert (vertex.value, vertex.rule) == (0.011, "parabola") and vertex.optimum is not None
    low, high = vertex.optimum.interval
    assert low and high and 0.0085 < low < 0.011 < high < 0.0135
    lowest = {"all": {"take": {"optimizer.lr": {"stage": "lr", "rule": "argmin"}}}}
    [taken] = staged(workspace, facts, lr=lr, **lowest)[0].plans["all"].taken
    assert (taken.value, taken.rule, taken.optimum) == (0.01, "argmin", vertex.optimum)


def test_two_values_of_one_grid_each_have_their_vertex(workspace: Workspace, facts: CorpusFacts) -> None:
    axes = {"optimizer.lr": [0.005, 0.01, 0.02], "optimizer.weight_decay": [0.05, 0.1, 0.2]}
    lr = {**STAGES["lr"], "grid": {"axes": axes}}
    both = {"all": {"take": {path: {"stage": "lr"} for path in axes}}}
    sweep_jobs, _ = staged(workspace, facts, lr=lr, **both)
    finish(
        workspace,
        sweep_jobs.plans["lr"],
        lambda point: bowl(point.optimizer.lr) + bowl(point.optimizer.weight_decay, at=0.09),
    )
    plan = staged(workspace, facts, lr=lr, **both)[0].plans["all"]
    assert {taken.field: (taken.value, taken.best_over) for taken in plan.taken} == {
        "optimizer.lr": (0.011, ("optimizer.weight_decay",)),
        "optimizer.weight_decay": (0.09, ("optimizer.lr",)),
    }
    assert load(plan.text, "the plan") == plan


def test_a_plan_of_before_there_were_vertices_is_read(workspace: Workspace, facts: CorpusFacts) -> None:
    sweep_jobs, _ = staged(workspace, facts)
    finish(workspace, sweep_jobs.plans["lr"], lambda point: point.optimizer.lr)
    raw = json.loads(staged(workspace, facts)[0].plans["all"].text)
    for key in ("optimum", "best_over"):
        del raw["taken"][0][key]
    [taken] = load(json.dumps(raw), "the plan").taken
    assert (taken.value, taken.optimum, taken.flags) == (0.001, None, ("edge",))


def test_a_word_can_be_taken_too(workspace: Workspace, facts: CorpusFacts) -> None:
    axes = {"model.activation": ["relu2", "gelu"]}
    stages = {
        "lr": {**STAGES["lr"], "grid": {"axes": axes}},
        "all": {"take": {"model.activation": {"stage": "lr"}}},
    }
    sweep_jobs, _ = staged(workspace, facts, **stages)
    run_all(SweepJobs(sweep_jobs.sweep, {"lr": sweep_jobs.plans["lr"]}))
    sweep_jobs, _ = staged(workspace, facts, **stages)
    [taken] = sweep_jobs.plans["all"].taken
    assert taken.value in axes["model.activation"] and not taken.at_edge
    assert (taken.rule, taken.flags) == ("argmin", ("no_logarithm",))


def test_a_stage_of_several_rungs_chooses_nothing(workspace: Workspace, facts: CorpusFacts) -> None:
    with pytest.raises(RequestError, match="has 2 rungs"):
        staged(workspace, facts, lr={**STAGES["lr"], "rungs": [0, 1]})


def test_a_stage_that_waits_again_stays_wanted(workspace: Workspace, facts: CorpusFacts) -> None:
    sweep_jobs, _ = staged(workspace, facts)
    run_all(SweepJobs(sweep_jobs.sweep, {"lr": sweep_jobs.plans["lr"]}))
    sweep_jobs, _ = staged(workspace, facts)
    wider = {**STAGES["lr"], "grid": {"axes": {"optimizer.lr": [0.001, 0.01, 0.1, 0.3]}}}
    study = tiny(name="staged", stages={**STAGES, "lr": wider})
    plans, waiting = plan_stages(workspace, study, facts)
    sweep_jobs.sweep.save(plans, waiting)
    assert set(waiting) == {"all"} and "all" not in sweep_jobs.sweep.plans()
    assert set(sweep_jobs.plans["all"].by_id) <= sweep_jobs.sweep.job_ids()
    assert not set(clean.find(sweep_jobs.sweep, "all").jobs) & set(sweep_jobs.plans["all"].by_id)


def test_a_grid_that_all_diverged_is_one_sentence(workspace: Workspace, facts: CorpusFacts) -> None:
    huge = {"lr": {**STAGES["lr"], "grid": {"axes": {"optimizer.lr": [1e6, 1e7]}}}}
    wild = {"parametrization__name": "standard", "parametrization__zero_head": False}
    sweep_jobs, _ = staged(workspace, facts, wild, **huge)
    run_all(SweepJobs(sweep_jobs.sweep, {"lr": sweep_jobs.plans["lr"]}))
    with pytest.raises(RequestError, match="all diverged"):
        staged(workspace, facts, wild, **huge)
    assert compare(sweep_jobs.sweep, sweep_jobs.plans["lr"]).left.jobs == 0


def test_a_value_must_be_an_axis_of_the_stage_it_comes_from(workspace: Workspace, facts: CorpusFacts) -> None:
    wrong = {"all": {"take": {"optimizer.beta1": {"stage": "lr"}}}}
    with pytest.raises(RequestError, match=r"does not vary optimizer\.beta1"):
        staged(workspace, facts, **wrong)


def test_a_stage_is_held_back_until_its_prediction_is_written(
    workspace: Workspace, facts: CorpusFacts
) -> None:
    from sweepctl.store import predictions
    from sweepctl.store.predictions import PredictedLoss, StagePrediction

    sweep_jobs, _ = staged(workspace, facts)
    free, held = launchable(sweep_jobs.sweep)
    assert held == ["top"] and set(free.plans) == {"lr"}
    top = sweep_jobs.plans["top"]
    rows = [
        PredictedLoss(job.id, "", "", 1.0, 1.0, 3.0, (2.9, 3.1), (2.8, 3.2)) for job in top.observations()
    ]
    for prior, predicted in ((False, rows), (True, rows[1:])):
        predictions.write(sweep_jobs.sweep, StagePrediction("top", prior, predicted).record())
        assert launchable(sweep_jobs.sweep)[1] == ["top"]
    predictions.write(sweep_jobs.sweep, StagePrediction("top", True, rows).record())
    assert launchable(sweep_jobs.sweep)[1] == []


def test_what_exists_is_new_and_is_unwanted(planned: Planner) -> None:
    sweep_jobs = planned(name="grows", ladder__depths=[1])
    [plan] = sweep_jobs.plans.values()
    first = compare(sweep_jobs.sweep, plan)
    assert (first.exists, first.begun, first.new, first.diff) == (0, 0, 3, None)
    run_all(sweep_jobs)
    assert compare(sweep_jobs.sweep, plan).left.jobs == 0
    from sweepctl.plan.expand import expand

    corpus = plan.base.corpus
    facts = CorpusFacts(corpus.hash, corpus.vocab_size, plan.corpus_tokens, ("validation",))
    longer = expand(
        tiny(name="grows", ladder__depths=[1], budget__tokens=[2560, 5120]),
        next(iter(sweep_jobs.plans)),
        facts,
    )
    compared = compare(sweep_jobs.sweep, longer)
    assert (compared.exists, compared.begun, compared.new) == (1, 1, 1)
    assert compared.diff is not None and compared.diff.added == 1 and len(compared.unwanted) == 1
    steps = longer.jobs[0].end - plan.jobs[0].end
    decay = max(job.end - (job.cut or 0) for job in longer.jobs if job.cut)
    assert compared.left.tokens == (steps + decay) * 64


def test_cleaning_deletes_only_what_nobody_wants(planned: Planner) -> None:
    both, mine = {"budget__tokens": [1280, 2560]}, {"budget__tokens": [1280, 2560, 5120]}
    run_all(planned(name="theirs", **both))
    run_all(planned(name="mine", **mine))
    sweep_jobs = planned(name="mine", budget__tokens=[1280], optimizer__lr=0.03)
    run_all(sweep_jobs)
    unwanted = clean.find(sweep_jobs.sweep, "all")
    store = sweep_jobs.sweep.workspace.root / "store"
    before = tree(store)
    theirs = SweepJobs(
        sweep_jobs.sweep.workspace.sweep("theirs"), sweep_jobs.sweep.workspace.sweep("theirs").plans()
    )
    assert len(unwanted.jobs) == 2 and not set(unwanted.jobs) & set(theirs.by_id)
    clean.delete(sweep_jobs.sweep, unwanted)
    gone = set(before) - set(tree(store))
    assert gone and all(path.split("/")[1] in unwanted.jobs for path in gone)
    assert all(theirs.finished(planned_job) for planned_job in theirs.by_id.values())
    assert clean.find(sweep_jobs.sweep, "all").empty


def test_cleaning_spares_what_came_to_be_wanted_meanwhile(planned: Planner) -> None:
    run_all(planned(name="mine"))
    sweep_jobs = planned(name="mine", optimizer__lr=0.03)
    unwanted = clean.find(sweep_jobs.sweep, "all")
    other = planned(name="theirs")
    clean.delete(sweep_jobs.sweep, unwanted)
    assert len(unwanted.jobs) == len(other.by_id) and all(other.finished(e) for e in other.by_id.values())


def test_a_policy_deletes_checkpoints_but_no_result(planned: Planner) -> None:
    sweep_jobs = planned(name="mine")
    run_all(sweep_jobs)
    unwanted = clean.find(sweep_jobs.sweep, "none")
    clean.delete(sweep_jobs.sweep, unwanted)
    assert unwanted.bytes > 0 and all(
        sweep_jobs.finished(planned_job) for planned_job in only(sweep_jobs, "branch")
    )
    assert not any(checkpoints.steps(planned_job.folder) for planned_job in sweep_jobs.by_id.values())
    assert [e.name for e in sweep_jobs.unfinished()] == []


def test_a_rate_is_measured_or_said_to_be_a_bound(planned: Planner) -> None:
    sweep_jobs = planned(name="rates")
    assert measured(sweep_jobs.sweep.workspace, sweep_jobs.plans) == {}
    small = [e for e in only(sweep_jobs, "trunk") if e.plan.rung_of(e.job).name == "8x1"]
    run_all(planned(name="rates", ladder__depths=[1]))
    rates = measured(sweep_jobs.sweep.workspace, sweep_jobs.plans)
    record = attempts.every(small[0].folder)[0].record
    assert rates["8x1"].flops_per_s == pytest.approx(
        small[0].plan.counts(small[0].job).exact_flops_per_token * record["tokens_per_s"]
    )
    assert rates["8x1"].is_measured and not rates["8x1"].least
    beside = rates["8x1"].trunk_s, rates["8x1"].observation_s
    assert rates["16x2"] == Rate(rates["8x1"].flops_per_s, True, "extrapolated from 8x1", *beside)
