"""What a workspace remembers of speed, and what that says of shapes that were never run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.launch.rates import StatedSpeed, plan_rates
from sweepctl.plan.expand import expand
from sweepctl.plan.plan import Plan
from sweepctl.spec.build import plain
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.execution import Execution
from sweepctl.store import speeds
from sweepctl.store.facts import Facts
from sweepctl.store.speeds import MEMORY_S, MeasuredSpeed, note, of_attempt, recorded
from sweepctl.store.throughput import Speeds, speeds_of
from sweepctl.store.workspace import Workspace
from tests.conftest import Planner, only, run_all, tiny

CORPUS = CorpusFacts("0" * 16, 64, 10**9, {"validation": 10**6})


def ladder(*depths: int, **changes: Any) -> Plan:
    """The tiny study at these depths; 8x1, 16x2, 24x3, ..."""
    study = tiny(ladder__depths=list(depths), **changes)
    return expand(study, next(iter(study.all_stages)), CORPUS)


def facts(**changes: Any) -> Facts:
    defaults = {"device": "H100", "device_kind": "cuda", "trained_tokens": 1000, "train_s": 10.0}
    return Facts(**{**defaults, "started": 100.0, "ended": 112.0, **changes})


def speed(plan: Plan, rung: str, flops_per_s: float, kind: str = "trunk", **changes: Any) -> MeasuredSpeed:
    """An attempt of ten seconds at this rate."""
    job = next(job for job in plan.jobs if plan.rung_of(job).name == rung)
    per_token = plan.counts(job).exact_flops_per_token
    changes = {"trained_tokens": max(1, round(10 * flops_per_s / per_token)), **changes}
    measured = of_attempt(kind, plan.point(job.point), plan.counts(job), facts(**changes))
    assert measured is not None and measured.is_possible
    return measured


def speeds_with(plan: Plan, *measured: MeasuredSpeed) -> Speeds:
    every = Speeds({plan.stage: plan})
    every._classes |= {each.of: each for each in measured}
    return every


def test_a_sweep_knows_the_speed_that_another_has_measured(planned: Planner) -> None:
    run_all(planned(name="first", ladder__depths=[1, 3]))
    other = planned(name="second", ladder__depths=[1, 2, 3, 4], optimizer__lr=0.03)
    workspace = other.sweep.workspace
    names = {each.of.rung for each in recorded(workspace)}
    kinds = {each.of.kind for each in recorded(workspace)}
    rates = plan_rates(workspace, other.plans, StatedSpeed())
    assert names == {"8x1", "24x3"} and kinds == {"trunk", "branch"}
    assert [rates.by_rung[rung].source for rung in ("8x1", "16x2", "24x3", "32x4")] == [
        "measured",
        "interpolated between 8x1 and 24x3",
        "measured",
        "extrapolated from 24x3",
    ]
    assert [rate.least for rate in rates.by_rung.values()] == [False, False, False, True]
    assert rates.device is not None and rates.by_rung["8x1"].observation_s > 0


def test_where_nothing_was_measured_nothing_is_claimed(workspace: Workspace) -> None:
    plan = ladder(1)
    assert plan_rates(workspace, {"main": plan}, StatedSpeed()).by_rung == {}
    bf16 = ladder(1, precision="bf16")
    assert speeds_with(bf16, speed(plan, "8x1", 1e6)).rates() == {}, "another precision says nothing"
    branch_alone = speeds_with(plan, speed(plan, "8x1", 1e6, kind="branch"))
    assert branch_alone.rates() == {}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"of": {}}',
        "\x00",
        "[" * 100_000,
        lambda record: {**record, "tokens": -1},
        lambda record: {**record, "device_s": 0},
        lambda record: {**record, "tokens": 10**400},
        lambda record: {**record, "later_key": 1},
        lambda record: {**record, "of": {**record["of"], "rung": "\x1b[31mother"}},
        lambda record: {**record, "of": {**record["of"], "kind": "other"}},
    ],
)
def test_what_is_damaged_or_foreign_is_passed_over(workspace: Workspace, content: Any) -> None:
    plan = ladder(1)
    good = speed(plan, "8x1", 1e6)
    folder = workspace.root / "store" / speeds.FOLDER
    folder.mkdir(parents=True)
    (folder / "README.txt").write_text("no record")
    (folder / "0000.json").write_text(json.dumps(plain(good)))  # another class's name
    (folder / "folder.json").mkdir()
    path = folder / good.of.file
    path.write_text(content if isinstance(content, str) else json.dumps(content(plain(good))))
    assert list(recorded(workspace)) == []
    job = workspace.job("0" * 16)
    note(job, "trunk", plan.point(0), facts())
    assert [each.tokens for each in recorded(workspace)] == [1000], "the next attempt writes it anew"


def test_attempts_of_a_class_add_up_and_old_ones_fade(workspace: Workspace) -> None:
    plan, job = ladder(1), workspace.job("0" * 16)
    job.path.parent.parent.mkdir()
    for _ in range(3):
        note(job, "trunk", plan.point(0), facts())
    [one_class] = recorded(workspace)
    assert (one_class.tokens, one_class.device_s, one_class.attempts) == (3000, 30, 3)
    assert one_class.beside_s == pytest.approx(6)
    note(job, "trunk", plan.point(0), facts(trained_tokens=10**7, train_s=2 * MEMORY_S, ended=1e9))
    [one_class] = recorded(workspace)
    assert one_class.tokens == 10**7 and one_class.ended == 1e9
    note(job, "trunk", plan.point(0), facts(device=None))
    note(job, "trunk", plan.point(0), facts(trained_tokens=0))
    assert [each.tokens for each in recorded(workspace)] == [10**7]


def test_a_folder_that_cannot_be_written_fails_nobody(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / speeds.FOLDER).write_text("a file in its place")
    note(Workspace(tmp_path).job("0" * 16), "trunk", ladder(1).point(0), facts())
    note(Workspace(tmp_path / "missing").job("0" * 16), "trunk", ladder(1).point(0), facts())


def test_rates_are_of_one_device_and_of_one_way_to_run() -> None:
    plan = ladder(1)
    eager = speed(plan, "8x1", 1e6, ended=200.0)
    compiled = speed(plan, "8x1", 4e6, compiled=True)
    other = speed(plan, "8x1", 9e6, device="B200", ended=900.0)
    every = speeds_with(plan, eager, compiled, other)
    assert every.devices() == ["B200", "H100"]
    assert every.rates("H100", compiled=True)["8x1"].flops_per_s == pytest.approx(4e6, rel=0.01)
    assert every.rates("H100", compiled=False)["8x1"].flops_per_s == pytest.approx(1e6, rel=0.01)
    assert every.rates("H100")["8x1"].flops_per_s == pytest.approx(2.5e6, rel=0.01)
    assert every.rates("B200", compiled=True)["8x1"].flops_per_s == pytest.approx(9e6, rel=0.01)


@for_all(low=st.floats(1e4, 1e9), high=st.floats(1e4, 1e9))
def test_between_two_rungs_a_rate_lies_between_theirs(low: float, high: float) -> None:
    plan = ladder(1, 2, 3, 4, 5)
    first, last = speed(plan, "8x1", low), speed(plan, "40x5", high)
    rates = speeds_with(plan, first, last).rates()
    ends = first.flops_per_s, last.flops_per_s
    curve = [rate.flops_per_s for rate in rates.values()]
    assert all(min(ends) * 0.999 <= rate <= max(ends) * 1.001 for rate in curve)
    assert curve == pytest.approx(sorted(curve, reverse=ends[0] > ends[1]))
    assert {rate.source for rate in rates.values()} == {"measured", "interpolated between 8x1 and 40x5"}


def test_of_two_shapes_of_a_size_the_one_of_like_width_counts() -> None:
    plan = ladder(1, 2, 3)
    small, large = speed(plan, "8x1", 1e6), speed(plan, "24x3", 4e6)
    narrow = dataclasses.replace(large, of=dataclasses.replace(large.of, rung="4x99", d_model=1))
    narrow = dataclasses.replace(narrow, tokens=large.tokens / 100)
    assert speeds_with(plan, small, large, narrow).rates()["16x2"].source.endswith("8x1 and 24x3")


def test_a_stated_speed(workspace: Workspace) -> None:
    plans = {"main": ladder(1, 2)}
    per_token = {rung.name: rung.counts.exact_flops_per_token for rung in plans["main"].rungs}
    rates = plan_rates(workspace, plans, StatedSpeed(tokens_per_s=100.0)).by_rung
    assert {name: rate.flops_per_s for name, rate in rates.items()} == {
        name: 100.0 * each for name, each in per_token.items()
    }
    rates = plan_rates(workspace, plans, StatedSpeed(mfu=0.4, device="NVIDIA H100 80GB HBM3")).by_rung
    assert {rate.flops_per_s for rate in rates.values()} == {0.4 * 989.4e12}
    with pytest.raises(InvalidValue, match="whose peak is known"):
        plan_rates(workspace, plans, StatedSpeed(mfu=0.4))
    with pytest.raises(InvalidValue, match="none yet"):
        plan_rates(workspace, plans, StatedSpeed(device="H100"))
    with pytest.raises(RequestError, match="state the same"):
        StatedSpeed(flops_per_s=1.0, mfu=0.4)
    for wrong in ({"mfu": 1.1}, {"tokens_per_s": 0.0}, {"flops_per_s": float("nan")}):
        with pytest.raises(RequestError):
            StatedSpeed(**wrong)


def test_a_launcher_says_which_kind_of_device(planned: Planner) -> None:
    sweep_jobs = planned(name="here", ladder__depths=[1])
    run_all(sweep_jobs)
    workspace = sweep_jobs.sweep.workspace
    assert plan_rates(workspace, sweep_jobs.plans, StatedSpeed(), Execution(device="cpu")).by_rung
    assert not plan_rates(workspace, sweep_jobs.plans, StatedSpeed(), Execution(device="cuda")).by_rung


def test_records_of_older_versions_are_read_from_their_attempts(planned: Planner) -> None:
    sweep_jobs = planned(name="older", ladder__depths=[1])
    run_all(sweep_jobs)
    workspace = sweep_jobs.sweep.workspace
    now = plan_rates(workspace, sweep_jobs.plans, StatedSpeed()).by_rung["8x1"]
    folder = workspace.root / "store" / speeds.FOLDER
    for path in folder.iterdir():
        path.unlink()
    before = plan_rates(workspace, sweep_jobs.plans, StatedSpeed()).by_rung["8x1"]
    assert before.flops_per_s == pytest.approx(now.flops_per_s)
    assert len(only(sweep_jobs, "trunk")) == len(speeds_of(workspace, sweep_jobs.plans)._own)
