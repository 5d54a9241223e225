"""What a rate costs that was chosen at another rung: measured by a stage that probes it, or allowed for."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Any

import pytest

from sweepctl.collect.tables import collect
from sweepctl.errors import InvalidValue
from sweepctl.launch.compare import compare
from sweepctl.launch.prepare import launchable
from sweepctl.launch.rates import PlanRates
from sweepctl.launch.stages import plan_stages
from sweepctl.laws.fit import Fit
from sweepctl.plan.plan import Plan, load
from sweepctl.predict.carried import DRIFT, probed
from sweepctl.predict.recipe import predict_target
from sweepctl.predict.stage import predict_stage
from sweepctl.report.console import console
from sweepctl.report.findings import gather
from sweepctl.report.plan import show_plan
from sweepctl.report.screen import screen_json, show_screen
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.science import Point
from sweepctl.spec.study import Take
from sweepctl.store.predictions import unpredicted
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.store.workspace import Sweep, Workspace
from tests.conftest import tiny
from tests.grids import bowl, finish
from tests.predict.test_predict import law as law  # the fixture

LR = {
    "rungs": [0],
    "grid": {"axes": {"optimizer.lr": [0.0025, 0.005, 0.01, 0.02, 0.04]}},
    "budget": {"tokens": [1280]},
    "fit": False,
}
PROBE = {
    "rungs": [-1],
    "take": {"optimizer.lr": {"stage": "lr", "factors": [0.5, 1, 2]}},
    "fit": False,
}
TOP = {"rungs": [-1], "take": {"optimizer.lr": {"stage": "lr"}}, "predict_first": True}


def planned_stages(workspace: Workspace, facts: CorpusFacts, **stages: Any) -> tuple[Sweep, dict[str, Plan]]:
    """The sweep and every stage's plan, with the losses of stages that others take from: the best rate of the
    small rung is 0.011, that of the large one 0.015."""
    study = tiny(name="carries", budget__tokens=[1280, 2560], stages={"lr": LR, **stages})
    sweep = workspace.sweep(study.name)
    plans, waiting = plan_stages(workspace, study, facts)
    while waiting:
        source = next(iter(waiting.values())).stage
        at = 0.011 if source == "lr" else 0.015
        finish(workspace, plans[source], partial(bowl_of, at))
        plans, waiting = plan_stages(workspace, study, facts)
    sweep.save(plans)
    return sweep, plans


def bowl_of(at: float, point: Point) -> float:
    return bowl(point.optimizer.lr, at=at)


def test_a_probe_trains_multiples_at_the_shortest_budget_and_shares_the_carried_run(
    workspace: Workspace, facts: CorpusFacts
) -> None:
    _, plans = planned_stages(workspace, facts, probe=PROBE, top=TOP)
    probe, top = plans["probe"], plans["top"]
    assert [point.settings["optimizer.lr"] for point in probe.points] == [0.0055, 0.011, 0.022]
    assert {probe.tokens(job) for job in probe.observations()} == {1280}
    shared = set(probe.by_id) & set(top.by_id)
    assert {(top.by_id[job].kind, top.by_id[job].label) for job in shared} == {
        ("trunk", ""),
        ("branch", "1.28k tokens"),
    }
    assert load(probe.text, "the plan") == probe and probe.probes and not top.probes


def test_a_probe_runs_while_what_it_is_for_is_held_back_and_is_not_predicted(
    workspace: Workspace, facts: CorpusFacts, law: Fit
) -> None:
    sweep, plans = planned_stages(workspace, facts, probe=PROBE, top=TOP)
    free, held = launchable(sweep)
    assert held == ["top"]
    [carried] = [job.id for job in plans["probe"].observations() if job.id in plans["top"].by_id]
    assert carried in {planned_job.job.id for planned_job in free.unfinished()}
    finish(workspace, plans["probe"], lambda point: bowl(point.optimizer.lr, at=0.015))
    fresh, late = unpredicted(sweep, plans["top"])
    assert [job.label for job in fresh] == ["2.56k tokens"] and not late
    prediction, _ = predict_stage(sweep, "top", law, post_hoc=False)
    assert prediction.prior and len(prediction.observations) == 1
    assert launchable(sweep)[1] == []


def test_a_measured_cost_replaces_what_is_allowed_for(
    workspace: Workspace, facts: CorpusFacts, law: Fit
) -> None:
    sweep, plans = planned_stages(workspace, facts, probe=PROBE, top={**TOP, "budget": {"tokens": [2560]}})
    assert probed(sweep, plans) == []
    [allowed] = predict_stage(sweep, "top", law, post_hoc=False)[0].observations
    small, large = (plan.rungs[0].counts.parameters(plan.accounting.parameters) for plan in (
        plans["lr"], plans["top"]))  # fmt: skip
    optimum = plans["top"].taken[0].optimum
    assert allowed.parts is not None and optimum is not None and optimum.bend is not None
    drift = optimum.bend * (DRIFT * math.log2(large / small)) ** 2
    assert drift < allowed.parts["carried"] < drift + optimum.bend
    half = math.log(allowed.run_interval[1] / allowed.loss_nats)
    assert half == pytest.approx(math.sqrt(sum(part**2 for part in allowed.parts.values())), rel=1e-6)

    finish(workspace, plans["probe"], lambda point: bowl(point.optimizer.lr, at=0.011 * 2**0.25))
    [probe] = probed(sweep, plans)
    assert probe.value == 0.011 and probe.rung == plans["top"].rungs[0].name
    assert probe.cost == pytest.approx(0.06 / 3 * 0.25**2, rel=0.1)
    assert probe.interval[0] <= probe.cost <= probe.interval[1]
    target = predict_target(sweep, law, None, float(large), 2560.0, None)
    assert target.loss_nats.parts is not None and target.loss_nats.parts.carried == probe.cost


def test_a_later_stage_takes_the_probed_vertex(workspace: Workspace, facts: CorpusFacts, law: Fit) -> None:
    top = {**TOP, "take": {"optimizer.lr": {"stage": "probe"}}}
    sweep, plans = planned_stages(workspace, facts, probe=PROBE, top=top)
    [taken] = plans["top"].taken
    assert taken.value == pytest.approx(0.015, rel=0.01) and taken.carried == 0.011
    prediction, _ = predict_stage(sweep, "top", law, post_hoc=False)
    assert all(row.parts and row.parts["carried"] < 1e-4 for row in prediction.observations)


def test_the_carried_cost_is_on_the_screens(
    workspace: Workspace, facts: CorpusFacts, capsys: pytest.CaptureFixture[str]
) -> None:
    top = {**TOP, "take": {"optimizer.lr": {"stage": "probe"}}}
    sweep, plans = planned_stages(workspace, facts, probe=PROBE, top=top)
    compared = {name: compare(sweep, plan) for name, plan in plans.items()}
    show_plan(console(), plans, compared, {}, PlanRates({}, ""))
    shown = " ".join(capsys.readouterr().out.split())
    assert "optimizer.lr = 0.011 (0.00" in shown and "probed at 0.5, 1, 2 times that" in shown
    assert "the carried 0.011 costs 0.4" in shown
    frames = collect(SweepJobs(sweep, plans))
    findings = gather(sweep, plans, frames["runs"], {}, {})
    show_screen(console(), findings)
    shown = " ".join(capsys.readouterr().out.split())
    assert "optimizer.lr = 0.011 carried to 16x2 costs 0.4" in shown
    [carried] = json.loads(json.dumps(screen_json(findings)["carried"]))
    assert carried["cost"] == pytest.approx(0.06 / 3 * math.log2(0.015 / 0.011) ** 2, rel=0.1)


@pytest.mark.parametrize("factors", [[0.5, 2.0], [1.0], [1.0, 1.0, 2.0], [-1.0, 1.0], [0.0, 1.0]])
def test_factors_that_probe_nothing_are_refused(factors: list[float]) -> None:
    with pytest.raises(InvalidValue, match="1 among them"):
        Take("lr", factors=tuple(factors))


def test_a_word_has_no_multiples(workspace: Workspace, facts: CorpusFacts) -> None:
    lr = {**LR, "grid": {"axes": {"model.activation": ["relu2", "gelu"]}}}
    probe = {**PROBE, "take": {"model.activation": {"stage": "lr", "factors": [1, 2]}}}
    study = tiny(name="words", stages={"lr": lr, "probe": probe})
    finish(workspace, plan_stages(workspace, study, facts)[0]["lr"], lambda point: 3.0)
    with pytest.raises(InvalidValue, match=r"stages\.probe\.take\.model\.activation\.factors"):
        plan_stages(workspace, study, facts)
