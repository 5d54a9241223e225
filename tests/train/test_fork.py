"""Invariant 1: a branch's weights and loss are those of a straight run of the same budget, bit for bit."""

from __future__ import annotations

import shutil

import pytest
import torch

from sweepctl.store import attempts
from sweepctl.store.sweep_jobs import PlannedJob
from tests.conftest import Planner, StopAfter, only, run_all, run_job, tree
from tests.train.forks import assert_forks_are_straight


@pytest.mark.parametrize("shape", ["linear", "1-sqrt", "cosine"])
@pytest.mark.parametrize("activation", ["relu2", "swiglu", "gelu"])
def test_a_branch_is_the_straight_run_bit_for_bit(planned: Planner, shape: str, activation: str) -> None:
    changes = {"schedule__decay__shape": shape, "model__activation": activation}
    assert len(assert_forks_are_straight(planned, **changes)) == 4


def test_a_branch_says_where_it_started(planned: Planner) -> None:
    sweep_jobs = planned()
    run_all(sweep_jobs)
    for planned_job in only(sweep_jobs, "branch"):
        record = attempts.newest(planned_job.folder).record
        assert record["started_from"] == {
            "job": planned_job.job.trunk,
            "step": planned_job.job.cut,
            "attempt": 1,
        }
        assert record["start_tokens"] == planned_job.job.cut * 64
        assert record["start_lr"] == pytest.approx(0.02)


def test_a_longer_budget_trains_only_the_rest(planned: Planner) -> None:
    run_all(planned(budget__tokens=[1280]))
    longer = planned(budget__tokens=[1280, 5120])
    run_all(longer)
    for trunk in only(longer, "trunk"):
        first, second = attempts.every(trunk.folder)
        assert (first.record["start_step"], first.record["end_step"]) == (0, 15)
        assert (second.record["start_step"], second.record["end_step"]) == (15, 60)
        assert second.record["started_from"]["step"] == 15


def test_an_extended_trunk_gives_the_losses_of_one_trained_at_once(planned: Planner, workspace) -> None:
    run_all(planned(budget__tokens=[1280]))
    extended = planned(budget__tokens=[1280, 5120])
    run_all(extended)
    losses = {e.job.id: e.folder.result().loss_nats for e in only(extended, "branch")}
    for planned_job in extended.by_id.values():
        shutil.rmtree(planned_job.folder.path)
    run_all(extended)
    assert losses == {e.job.id: e.folder.result().loss_nats for e in only(extended, "branch")}


def trained(trunk: PlannedJob) -> dict[str, bytes]:
    """All but its wishes: a new branch wishes for the checkpoint that it starts from."""
    files = tree(trunk.folder.path)
    return {name: content for name, content in files.items() if not name.startswith("wanted/")}


def test_a_budget_in_between_leaves_the_trunk_as_it_was(planned: Planner) -> None:
    sweep_jobs = planned(name="ends", budget__tokens=[1280, 5120])
    run_all(sweep_jobs)
    trunks = only(sweep_jobs, "trunk")
    before = [trained(trunk) for trunk in trunks]
    between = planned(name="between", budget__tokens=[2560])
    run_all(between)
    straight = planned(name="straight", budget__tokens=[2560], schedule__fork=False)
    run_all(straight)
    assert before == [trained(trunk) for trunk in trunks]
    for branch, run in zip(only(between, "branch"), only(straight, "run"), strict=True):
        record = attempts.newest(branch.folder).record
        assert (record["start_step"], branch.job.cut, record["end_step"]) == (15, 30, 40)
        assert branch.folder.result().loss_nats == run.folder.result().loss_nats


@pytest.mark.parametrize("kind", ["trunk", "branch"])
def test_a_stopped_job_goes_on_where_it_was(planned: Planner, monkeypatch, kind: str) -> None:
    monkeypatch.setattr("sweepctl.train.loop.GLANCE_S", 0.0)
    sweep_jobs = planned()
    sweep_jobs.make_wishes()
    for planned_job in only(sweep_jobs, "trunk") if kind == "branch" else []:
        run_job(sweep_jobs, planned_job)
    job = only(sweep_jobs, kind)[-1]
    assert run_job(sweep_jobs, job, StopAfter(5)).why == "stopped"
    [attempt] = attempts.every(job.folder)
    assert attempt.record["end_step"] == (job.job.cut or 0 if kind == "branch" else 0) + 5
    undisturbed = planned(name="undisturbed", schedule__fork=False)
    run_all(sweep_jobs)
    run_all(undisturbed)
    for branch, run in zip(only(sweep_jobs, "branch"), only(undisturbed, "run"), strict=True):
        assert branch.folder.result().loss_nats == run.folder.result().loss_nats


@pytest.mark.parametrize("broken", ["exp_avg", "step", "weights"])
def test_the_fork_needs_everything_it_restores(
    planned: Planner, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Negative control: with one part of the state lost, the equality above does not hold."""
    from sweepctl.train.builtin import BuiltinTrainer

    load = BuiltinTrainer.load

    def lossy(self: BuiltinTrainer, folder, step: int) -> None:
        load(self, folder, step)
        if broken == "weights":
            with torch.no_grad():
                self.model.embedding.copy_(self.model.embedding.bfloat16())
        else:
            for state in self.optimizer.members[0].state.values():
                state[broken].zero_()

    straight = planned(name="straight", schedule__fork=False)
    run_all(straight)
    monkeypatch.setattr(BuiltinTrainer, "load", lossy)
    forked = planned(name="forked")
    run_all(forked)
    ours = [e.folder.result().loss_nats for e in only(forked, "branch")]
    assert ours != [e.folder.result().loss_nats for e in only(straight, "run")]


def test_two_decays_share_one_trunk(planned: Planner) -> None:
    sweep_jobs = planned(grid={"axes": {"schedule.decay.shape": ["linear", "1-sqrt"]}})
    assert len(only(sweep_jobs, "trunk")) == 2 and len(only(sweep_jobs, "branch")) == 8
    run_all(sweep_jobs)
    assert all(sweep_jobs.finished(planned_job) for planned_job in sweep_jobs.by_id.values())


KINDS = {
    "multistep": {"schedule__kind": "multistep", "schedule__drops": [[0.6, 0.3], [0.8, 0.1]]},
    "constant": {"schedule__kind": "constant"},
    "wsd-s": {"schedule__kind": "wsd-s", "schedule__rewarm_steps": 2, "schedule__decay__end_lr_share": 0.1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_schedule_that_forks_is_its_straight_runs_bit_for_bit(planned: Planner, kind: str) -> None:
    changes = KINDS[kind] | {"ladder__depths": [2], "budget__tokens": [1280, 2560, 3840]}
    assert len(assert_forks_are_straight(planned, **changes)) == 3
    forked = planned(name="forked", **changes)
    assert len(only(forked, "trunk")) == 1
    for branch in only(forked, "branch"):
        steps = attempts.newest(branch.folder).record
        assert (steps["start_step"], steps["end_step"]) == (branch.job.cut, branch.job.end)
        assert (branch.job.cut == branch.job.end) == (kind != "multistep")


def test_a_wsd_s_trunk_that_stops_in_a_decay_goes_on_bit_for_bit(planned: Planner, monkeypatch) -> None:
    """Stopped in its second decay, and again while it warms up after it."""
    monkeypatch.setattr("sweepctl.train.loop.GLANCE_S", 0.0)
    changes = KINDS["wsd-s"] | {"ladder__depths": [1], "budget__tokens": [1280, 2560, 3840]}
    sweep_jobs = planned(name="stopped", **changes)
    [trunk] = only(sweep_jobs, "trunk")
    curve = trunk.plan.science(trunk.job).curve()
    assert curve.cycles is not None and curve.cycles.decays == ((15, 20), (35, 40), (55, 60))
    sweep_jobs.make_wishes()
    ends = []
    for looks in (37, 4):
        assert run_job(sweep_jobs, trunk, StopAfter(looks)).why == "stopped"
        ends.append(attempts.newest(trunk.folder).record["end_step"])
    assert ends == [37, 41] and curve.at(37) == pytest.approx(0.64) and curve.at(41) == 1.0
    assert curve.at(40) == pytest.approx(0.55)
    run_all(sweep_jobs)
    straight = planned(name="straight", schedule__fork=False, **changes)
    run_all(straight)
    for branch, run in zip(only(sweep_jobs, "branch"), only(straight, "run"), strict=True):
        assert branch.folder.result().loss_nats == run.folder.result().loss_nats


def test_going_on_from_decayed_weights_is_not_the_decay_of_the_plateau(planned: Planner) -> None:
    """The first budget is the same run under both laws, the second is not."""
    by_kind = {}
    for kind in ("wsd", "wsd-s"):
        sweep_jobs = planned(name=kind, schedule__kind=kind, ladder__depths=[1])
        run_all(sweep_jobs)
        by_kind[kind] = [planned_job.folder.result().loss_nats for planned_job in only(sweep_jobs, "branch")]
    assert by_kind["wsd"][0] == by_kind["wsd-s"][0] and by_kind["wsd"][1] != by_kind["wsd-s"][1]


def test_a_multistep_trunk_is_the_one_of_wsd(planned: Planner) -> None:
    """Nothing of the plateau is trained again for another way down."""
    run_all(planned(name="wsd"))
    sweep_jobs = planned(name="steps", schedule__kind="multistep", schedule__drops=[[0.75, 0.2]])
    run_all(sweep_jobs)
    assert [len(attempts.every(trunk.folder)) for trunk in only(sweep_jobs, "trunk")] == [1, 1]
    assert all(sweep_jobs.finished(planned_job) for planned_job in sweep_jobs.by_id.values())
