"""Every kind of schedule as a plan, and what the budgets would cost under the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweepctl.plan.alternatives import alternatives
from sweepctl.plan.cost import total
from sweepctl.plan.plan import load
from sweepctl.spec.hashing import canonical, digest
from sweepctl.spec.schedules.cosine import Cosine, CosineDecay
from sweepctl.spec.schedules.decay import Decay
from sweepctl.spec.schedules.multistep import MultiStep
from sweepctl.spec.schedules.schedule import Schedule
from sweepctl.spec.schedules.wsd import Wsd
from sweepctl.spec.science import read_job
from tests.plan.test_expand import plan

END = "schedule.decay.end_lr_share"


@pytest.mark.parametrize("kind", ["multistep", "constant", "wsd-s", "cosine"])
@pytest.mark.parametrize("fork", [True, False])
def test_every_schedule_is_read_back_whole_with_its_ids(kind: str, fork: bool) -> None:
    planned = plan(
        schedule__kind=kind, schedule__fork=fork, schedule__rewarm_steps=2, budget__tokens=[1280, 2560, 5120],
        schedule__decay__end_lr_share=0.1, schedule__drops=[[0.7, 0.5]],
    )  # fmt: skip
    again = load(planned.text, "x")
    assert again == planned and again.hash == planned.hash
    for job in again.jobs:
        science = again.science(job)
        trunk = again.science(again.by_id[job.trunk]) if job.trunk else None
        assert science.id == job.id
        assert read_job(json.loads(canonical(science.record())), trunk and trunk.record()).id == job.id
    assert ({job.kind for job in planned.jobs} == {"run"}) == (not fork or kind == "cosine")


def test_other_kinds_of_an_earlier_plan_begin_as_its_record_says() -> None:
    """The plan was written when a record had the keys of all kinds: adamw with a momentum, a cosine with a
    decay's fraction and with drops. What is not adamw then had ids that today's values give."""
    text = Path(__file__).with_name("axes_of_kinds.json").read_text()
    earlier = load(text, "x")
    optimizers = [earlier.point(index).optimizer for index in range(6)]
    assert [optimizer.name for optimizer in optimizers] == ["adamw", "sgd"] * 3
    assert {vars(sgd)["momentum"] for sgd in optimizers[1::2]} == {0.9}
    cosine, wsd, steps = (earlier.schedule_of(index) for index in (0, 2, 4))
    assert cosine == Cosine(warmup_steps=40, decay=CosineDecay(0.1))
    assert wsd == Wsd(warmup_steps=40, decay=Decay("cosine", 0.5, 0.1))
    assert steps == MultiStep(warmup_steps=40, drops=((0.5, 0.5),))
    by_sgd = [job for job in earlier.jobs if job.point % 2]
    assert len(by_sgd) == 4 and all(earlier.science(job).id == job.id for job in by_sgd)
    assert earlier.text == text


def test_points_of_one_trunk_are_branches_without_a_step() -> None:
    for kind in ("constant", "wsd-s"):
        planned = plan(schedule__kind=kind, budget__tokens=[1280, 2560], ladder__depths=[1])
        assert [(job.kind, job.cut, job.end) for job in planned.jobs] == [
            ("trunk", None, 40), ("branch", 20, 20), ("branch", 40, 40),
        ]  # fmt: skip
        assert total(planned).tokens == 2560 and total(planned).saving == 1.5


def test_a_new_budget_makes_another_wsd_s_trunk_and_only_there() -> None:
    for kind, shared in (("wsd", 3), ("multistep", 3), ("constant", 3), ("wsd-s", 0)):
        few, more = (
            plan(schedule__kind=kind, budget__tokens=budgets, ladder__depths=[1])
            for budgets in ([1280, 2560], [1280, 2560, 5120])
        )
        assert len({job.id for job in few.jobs} & {job.id for job in more.jobs}) == shared


def test_a_plan_from_before_there_were_kinds_keeps_its_ids() -> None:
    for kind, shape in (("wsd", "1-sqrt"), ("cosine", "cosine")):
        decay = {"shape": shape, "fraction": 1.0 if kind == "cosine" else 0.25, "end": 0.1}
        schedule = {"kind": kind, "warmup_steps": 4, "decay": {"shape": shape, "fraction": 0.25}}
        schedule["decay"]["end_lr_share"] = 0.1
        raw = json.loads(plan(schedule=schedule, grid={"axes": {END: [0, 0.1]}}).text)
        del raw["schedule"], raw["scaling"]
        text = json.dumps(raw | {"decay": decay}).replace(END, "schedule.decay.end")
        old = load(text, "x")
        assert old.schedule.kind == kind and old.points[1].settings == {END: 0.1}
        assert all(old.science(job).id == job.id for job in old.jobs)
        assert old.hash == digest(text)  # its file's name


def test_each_schedule_costs_what_planning_it_costs() -> None:
    """The table beside the study's own schedule, held against plans of each."""
    budgets, axes = [1280, 2560, 5120], {"axes": {"optimizer.lr": [0.1, 0.2]}}
    plans = {
        kind: plan(schedule__kind=kind, budget__tokens=budgets, grid=axes, schedule__decay__fraction=0.1)
        for kind in Schedule.kinds()
    }
    costs = {kind: total(planned) for kind, planned in plans.items()}
    for kind, planned in plans.items():
        for row in alternatives([planned], total(planned)):
            wanted = costs[row.schedule.kind]
            assert row.own == (row.schedule.kind == kind)
            for name in ("jobs", "observations", "tokens", "tokens_from_scratch", "flops", "flops_exact"):
                assert getattr(row.cost, name) == pytest.approx(getattr(wanted, name)), (kind, row, name)
    tokens = {kind: cost.tokens for kind, cost in costs.items()}
    assert tokens["wsd-s"] == tokens["constant"] < tokens["wsd"] < tokens["multistep"] < tokens["cosine"]


def test_kinds_of_schedules_can_be_an_axis() -> None:
    kinds = ["wsd", "multistep", "cosine", "constant", "wsd-s"]
    planned = plan(grid={"axes": {"schedule.kind": kinds}}, ladder__depths=[1])
    assert all(row.own for row in alternatives([planned], total(planned)))
    assert [planned.schedule_of(i).kind for i in range(5)] == kinds
    # wsd, multistep and constant are of one trunk; wsd-s has its own; a cosine has none.
    assert [job.kind for job in planned.jobs].count("trunk") == 2
    again = load(planned.text, "x")
    assert all(again.science(job).id == job.id for job in again.jobs)
