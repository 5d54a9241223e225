"""Moments and gradients that a job's processes share out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sweepctl.store import attempts, checkpoints
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.train import sharding
from sweepctl.train.processes import SingleProcess
from sweepctl.train.sharding import Shards
from tests.conftest import Planner, only, run_job
from tests.train.team import NOISE, Team, curve, losses, losses_of_one_process, same, wipe

SHORT = {"ladder__depths": [1], "budget__tokens": [1280]}
"""A trunk of 15 steps and a branch of 5."""
EXPERTS = {"count": 4, "bias_rate": 0.02}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer__clip_norm": 0.1, "model__tied": True},
    "lion": {"optimizer__clip_norm": None},
    "sgd": {"optimizer__momentum": 0.0},
    "muon": {"model__experts": EXPERTS},
}
"""With every optimizer something else that must not matter."""


def trained(sweep_jobs: SweepJobs) -> list[Any]:
    """All that jobs came to: losses, norms of gradients, and every checkpoint, byte by byte."""
    came_to: list[Any] = [losses(sweep_jobs)]
    for planned_job in sweep_jobs.by_id.values():
        newest = checkpoints.newest(planned_job.folder)
        came_to += [curve(planned_job), curve(planned_job, "grad_norm")]
        came_to.append({file.name: file.read_bytes() for file in sorted(newest.path.glob("*.safetensors"))})
    assert any("optimizer.safetensors" in files for files in came_to if isinstance(files, dict))
    return came_to


def shards_recorded(sweep_jobs: SweepJobs) -> set[str | None]:
    every = [a for planned_job in sweep_jobs.by_id.values() for a in attempts.every(planned_job.folder)]
    return {attempt.facts.shard for attempt in every}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_processes_share_out_what_they_kept_twice_and_nothing_changes(
    planned: Planner, teams: dict[int, Team], name: str
) -> None:
    """Bit for bit: of two numbers there is one sum."""
    sweep_jobs = planned(**SHORT, optimizer__name=name, **OPTIMIZERS[name])
    one_process = losses_of_one_process(sweep_jobs)
    came_to = []
    for shard in ("none", "optimizer"):
        teams[2].run_all(sweep_jobs, shard=shard)
        assert shards_recorded(sweep_jobs) == {shard}
        same(sweep_jobs, one_process)
        came_to.append(trained(sweep_jobs))
        wipe(sweep_jobs)
    assert came_to[0] == came_to[1]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_four_processes_that_share_out_all_train_what_one_trains(
    planned: Planner, teams: dict[int, Team], name: str
) -> None:
    """Not all of them own a tensor that is AdamW's."""
    sweep_jobs = planned(**SHORT, optimizer__name=name)
    one_process = losses_of_one_process(sweep_jobs)
    teams[4].run_all(sweep_jobs, shard="gradients")
    assert shards_recorded(sweep_jobs) == {"gradients"}
    same(sweep_jobs, one_process)


def test_checkpoints_move_between_processes_that_share_out_and_others(
    planned: Planner, teams: dict[int, Team]
) -> None:
    """Trunks go on and branches fork, from two to one and from one to four."""
    sweep_jobs = planned(ladder__depths=[1], budget__tokens=[1280, 2560, 5120])
    expected = losses_of_one_process(sweep_jobs)
    for size, shard, budgets in [(2, "gradients", [1280]), (1, "none", [2560]), (4, "optimizer", [5120])]:
        part = planned(ladder__depths=[1], budget__tokens=budgets)
        part.make_wishes()
        for planned_job in [*only(part, "trunk"), *only(part, "branch")]:
            if size == 1:
                assert run_job(part, planned_job, shard="gradients").why == "done"
            else:
                assert teams[size].run(part, planned_job, shard=shard)["why"] == "done"
    sweep_jobs = planned(ladder__depths=[1], budget__tokens=[1280, 2560, 5120])
    same(sweep_jobs, expected)
    [trunk] = only(sweep_jobs, "trunk")
    facts = [attempt.facts for attempt in attempts.every(trunk.folder)]
    assert [(f.world_size, f.shard) for f in facts] == [(2, "gradients"), (1, "none"), (4, "optimizer")]
    assert [f.start_step for f in facts] == [0, 15, 30]


def test_pieces_that_are_reduced_together_or_each_come_to_the_same(
    planned: Planner, teams: dict[int, Team]
) -> None:
    sweep_jobs = planned(**{**SHORT, "batch__tokens": 128, "budget__tokens": [2560]})
    expected = losses_of_one_process(sweep_jobs)
    came_to = {}
    for shard in ("none", "optimizer", "gradients"):
        teams[2].run_all(sweep_jobs, shard=shard, micro_batch_rows=1)
        same(sweep_jobs, expected)
        came_to[shard] = trained(sweep_jobs)
        wipe(sweep_jobs)
    assert came_to["none"] == came_to["optimizer"]
    assert came_to["gradients"][1] == pytest.approx(came_to["none"][1], rel=NOISE)


def test_a_device_that_has_no_gpu_shares_nothing_out_unasked(
    planned: Planner, teams: dict[int, Team]
) -> None:
    sweep_jobs = planned(**SHORT)
    teams[2].run_all(sweep_jobs)
    assert shards_recorded(sweep_jobs) == {"none"}


class _WithATwin(SingleProcess):
    """Rank 0 of two, whose other process has the same gradients. Says what is sent."""

    size = 2

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[int] = []

    def begin_sum(self, x: Tensor, owner: int) -> Callable[[], object]:
        self.sent.append(owner)
        return lambda: x.mul_(2)


@pytest.mark.parametrize("each_piece", [False, True])
@pytest.mark.parametrize("in_flight_bytes", [0, 2**20])
def test_a_gradient_is_reduced_when_it_is_due_and_stays_with_its_owner(
    each_piece: bool, in_flight_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "IN_FLIGHT_BYTES", in_flight_bytes)
    torch.manual_seed(0)
    named = {name: nn.Parameter(torch.randn(3, 3)) for name in ("first", "second", "third")}
    processes = _WithATwin()
    shards = Shards(named, processes, each_piece)
    pieces = torch.randn(2, 3)
    whole = torch.autograd.grad(_loss(named, pieces), list(named.values()))
    shards.begin()
    for _ in range(2):  # updates
        with shards.piece(is_last=False):
            _loss(named, pieces[:1]).backward()
        assert len(processes.sent) == (3 if each_piece else 0)
        assert all((parameter.grad is None) == each_piece for parameter in named.values())
        with shards.piece(is_last=True):
            _loss(named, pieces[1:]).backward()
        assert processes.sent == [shards.owner[name] for name in reversed(named)] * (1 + each_piece)
        for (name, parameter), gradient in zip(named.items(), whole, strict=True):
            if shards.owns(name):
                torch.testing.assert_close(parameter.grad, gradient)
            else:
                assert parameter.grad is None
            parameter.grad = None
        processes.sent.clear()


def test_a_process_that_owns_nothing_trains_along() -> None:
    """More processes than tensors: nothing to keep, to clip or to step."""
    named = {"only": nn.Parameter(torch.ones(2))}
    processes = _WithATwin()
    processes.rank = 1
    shards = Shards(named, processes, each_piece=False)
    assert not shards.owns("only")
    shards.begin()
    with shards.piece(is_last=True):
        named["only"].sum().backward()
    assert named["only"].grad is None and float(shards.gradient_norm(named)) == 0.0
    assert shards.gather("only", torch.zeros(2)) is None
    nn.utils.clip_grads_with_norm_([], 1.0, torch.ones(()), foreach=True)


def _loss(named: dict[str, nn.Parameter], x: Tensor) -> Tensor:
    """x [n, 3] through three layers."""
    for parameter in named.values():
        x = x @ parameter
    return x.square().sum()
