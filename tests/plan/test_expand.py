from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepctl.errors import DamagedFile, RequestError
from sweepctl.plan.cost import by_rung, most_passes, sum_costs, total
from sweepctl.plan.diff import diff
from sweepctl.plan.expand import expand
from sweepctl.plan.plan import Plan, load
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.hashing import canonical, digest
from tests.conftest import tiny

FACTS = CorpusFacts("c0ffee", 256, 1_000_000, ("validation",))


def plan(**changes) -> Plan:
    return expand(tiny(**changes), "all", FACTS)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(400, 40_000), min_size=1, max_size=4, unique=True),
    st.sampled_from([[0.1], [0.1, 0.2]]),
    st.sampled_from([True, False]),
)
def test_a_plan_is_read_back_whole_and_its_ids_are_its_sciences(budgets, rates, fork) -> None:
    planned = plan(
        budget__tokens=budgets,
        schedule__fork=fork,
        grid={"axes": {"optimizer.lr": rates, "schedule.decay.shape": ["linear", "cosine"]}},
    )
    again = load(planned.text, "x")
    assert again == planned and again.hash == planned.hash
    for job in again.jobs:
        assert again.science(job).id == job.id
        assert job.trunk is None or job.trunk in again.by_id


def test_the_trunk_is_shared_by_all_budgets_of_a_point() -> None:
    planned = plan(budget__tokens=[640, 1280, 2560])
    assert [job.kind for job in planned.jobs] == ["trunk", "branch", "branch", "branch"] * 2
    trunk = planned.jobs[0]
    assert trunk.end == max(job.cut for job in planned.branches[trunk.id])
    longer = plan(budget__tokens=[640, 1280, 2560, 5120])
    assert {job.id for job in planned.jobs} < {job.id for job in longer.jobs}


@pytest.mark.parametrize(
    ("optimizer", "axes"),
    [
        ({}, {"optimizer.weight_decay": [0.0], "optimizer.weight_decay_rule": ["coupled", "independent"]}),
        ({"name": "sgd"}, {"optimizer.momentum": [0.0], "optimizer.nesterov": [True, False]}),
        ({"name": "muon"}, {"optimizer.lr": [0.02], "optimizer.adamw_lr": [None, 0.02]}),
    ],
)
def test_keys_that_change_nothing_make_no_job(optimizer, axes) -> None:
    """What is said of what is not used is trained once."""
    changes = {"budget__tokens": [1280], "ladder__depths": [1]}
    planned = plan(optimizer=optimizer | {"lr": 0.02}, grid={"axes": axes}, **changes)
    assert len(planned.points) == 2 and [job.point for job in planned.jobs] == [0, 0]
    assert all(planned.science(job).id == job.id for job in load(planned.text, "x").jobs)


@pytest.mark.parametrize(("budgets", "trunks"), [([1280], 1), ([1280, 2560], 2)])
def test_rewarming_after_the_last_decay_makes_no_job(budgets: list[int], trunks: int) -> None:
    schedule = {"kind": "wsd-s", "warmup_steps": 2, "decay": {"fraction": 0.25}}
    axes = {"schedule.rewarm_steps": [0, 2]}
    planned = plan(schedule=schedule, budget__tokens=budgets, ladder__depths=[1], grid={"axes": axes})
    assert [job.kind for job in planned.jobs].count("trunk") == trunks


def test_flop_budgets_need_one_trunk_a_rung() -> None:
    planned = plan(budget={"flops": [1e8, 2e8, 4e8]})
    assert len([job for job in planned.jobs if job.kind == "trunk"]) == 2
    for job in planned.observations():
        counts = planned.counts(job)
        wanted = float(job.label.split()[0]) / counts.flops_per_token(planned.accounting)
        assert abs(planned.tokens(job) - wanted) <= planned.batch_tokens(job) / 2


def test_a_cosine_trains_every_budget_whole() -> None:
    planned = plan(
        schedule={
            "kind": "cosine",
            "warmup_steps": 4,
            "decay": {"end_lr_share": 0.1},
        }
    )
    assert {job.kind for job in planned.jobs} == {"run"}
    assert total(planned).saving == 1.0


def test_any_science_field_can_be_an_axis() -> None:
    axes = {
        "optimizer.lr": [0.1, 0.2],
        "batch.tokens": [64, 128],
        "seed.data": [0, 1],
        "model.activation": ["relu2", "gelu"],
        "shape.d_ff": [16, 24],
        "schedule.decay.fraction": [0.1, 0.3],
        "schedule.warmup_steps": [2, 3],
    }
    planned = plan(grid={"axes": axes}, ladder__depths=[1])
    assert len(planned.points) == 2**7
    for index, row in enumerate(planned.points):
        point = planned.point(index)
        assert point.optimizer.lr == row.settings["optimizer.lr"]
        assert point.shape.d_ff == row.settings["shape.d_ff"]
        assert point.warmup_steps == row.settings["schedule.warmup_steps"]
    wide = next(job for job in planned.jobs if planned.points[job.point].settings["shape.d_ff"] == 24)
    assert planned.counts(wide).non_embedding == 4 * 64 + 2 * 8 * 24


def test_batch_sizes_are_planned_for_the_same_tokens() -> None:
    planned = plan(grid={"axes": {"batch.tokens": [64, 128]}}, ladder__depths=[1], budget__tokens=[2560])
    assert {planned.tokens(job) for job in planned.observations()} == {2560}


def test_forking_saves_what_the_arithmetic_says() -> None:
    """Four doubling budgets, decays of a fifth: (1 + 0.875 x 0.2) T against 1.875 T."""
    planned = plan(
        budget__tokens=[64_000, 128_000, 256_000, 512_000], schedule__decay__fraction=0.2, ladder__depths=[1]
    )
    cost = total(planned)
    assert cost.tokens == pytest.approx((1 + 0.875 * 0.2) * 512_000)
    assert cost.saving == pytest.approx(1.875 / 1.175)
    assert sum_costs(c for _, _, c in by_rung(planned)) == cost


def test_the_disk_a_plan_needs_is_what_training_writes(planned) -> None:
    pytest.importorskip("torch", reason="it trains")
    from sweepctl.store import checkpoints
    from tests.conftest import one_plan, run_all

    sweep_jobs = planned()
    run_all(sweep_jobs)
    written = sum(
        checkpoints.at(planned_job.folder, step).bytes
        for planned_job in sweep_jobs.by_id.values()
        for step in checkpoints.steps(planned_job.folder)
    )
    assert written == pytest.approx(total(one_plan(sweep_jobs.sweep)).disk_all, rel=0.35)
    assert written > total(one_plan(sweep_jobs.sweep)).disk_all


def test_a_plan_that_repeats_its_data_says_so() -> None:
    assert most_passes(plan(budget__tokens=[2_000_000])) == pytest.approx(2.0, rel=0.01)


def test_a_change_is_traced_to_its_field() -> None:
    old = plan(budget__tokens=[1280, 2560])
    new = plan(budget__tokens=[1280, 5120], optimizer__lr=0.5)
    difference = diff(old, new)
    assert (difference.kept, difference.added, difference.changed) == (0, 2, 4)
    change = difference.changes[0]
    assert (change.field, change.old, change.new, change.jobs) == ("optimizer.lr", 0.02, 0.5, 4)
    same = diff(old, plan(budget__tokens=[1280, 2560, 5120]))
    assert (same.kept, same.added, same.changed, same.gone) == (6, 2, 0, ())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": {"a": {"rungs": [7]}}}, "rungs=7"),
        ({"budget__tokens": [128]}, "inside the warmup"),
        ({"grid": {"axes": {"optimizer.speed": [1]}}}, "no science field 'optimizer.speed'"),
        ({"grid": {"axes": {"optimizer.lr": [0]}}}, "optimizer.lr=0.0"),
        ({"grid": {"axes": {"batch.tokens": [65]}}}, "batch.tokens=65"),
    ],
)
def test_what_cannot_be_planned_is_named(changes, said: str) -> None:
    study = tiny(**changes)
    with pytest.raises(RequestError, match=said):
        expand(study, next(iter(study.all_stages)), FACTS)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99}'])
def test_a_damaged_plan_is_one_sentence(text: str) -> None:
    with pytest.raises(DamagedFile, match="plan the sweep again"):
        load(text, "plans/x.json")


def test_planning_and_status_import_neither_torch_nor_pandas() -> None:
    code = (
        "import sys; import sweepctl.cli, sweepctl.plan.expand, sweepctl.launch.status,"
        " sweepctl.report.status, sweepctl.spec.compose, sweepctl.launch.compare,"
        " sweepctl.launch.stages, sweepctl.report.plan;"
        "print([m for m in ('torch', 'pandas', 'submitit', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("field", ["warmup_steps", "corpus.hash", "numerics"])
def test_a_field_that_follows_from_others_is_no_axis(facts: CorpusFacts, field: str) -> None:
    with pytest.raises(RequestError, match="follows from the study"):
        expand(tiny(grid={"axes": {field: [1, 2]}}), "all", facts)


def test_a_whole_number_on_an_axis_is_the_same_science_as_the_float(facts: CorpusFacts) -> None:
    """In the plan, in its file and in the records the jobs write."""
    whole, real = (
        expand(tiny(grid={"axes": {"schedule.decay.end_lr_share": [end]}}), "all", facts) for end in (0, 0.0)
    )
    assert [job.id for job in whole.jobs] == [job.id for job in real.jobs]
    for plan in (whole, load(whole.text, "plan")):
        assert all(plan.science(job).id == job.id for job in plan.jobs)
        assert all(digest(canonical(plan.science(job).record())) == job.id for job in plan.jobs)
