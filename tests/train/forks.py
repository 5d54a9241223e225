"""Invariant 1 as assertions that every optimizer, schedule and architecture shares."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sweepctl.store import checkpoints
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from tests.conftest import Planner, StopAfter, only, run_all, run_job


def final_weights(planned_job: PlannedJob) -> dict[str, Tensor]:
    """What a finished job saved at its end."""
    steps = checkpoints.steps(planned_job.folder)
    return load_file(checkpoints.at(planned_job.folder, steps[-1]).path / "weights.safetensors")


def assert_same_results(forked: SweepJobs, straight: SweepJobs) -> list[dict[str, Tensor]]:
    """Branches have the losses and weights of the runs of their budgets, bit for bit; the weights."""
    runs = {(e.plan.rung_of(e.job).name, e.job.end): e for e in only(straight, "run")}
    branches = {(e.plan.rung_of(e.job).name, e.job.end): e for e in only(forked, "branch")}
    assert branches and branches.keys() == runs.keys()
    weights = []
    for key, branch in branches.items():
        assert branch.folder.result().loss_nats == runs[key].folder.result().loss_nats
        ours, theirs = final_weights(branch), final_weights(runs[key])
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        weights.append(ours)
    return weights


def assert_forks_are_straight(planned: Planner, **changes: object) -> list[dict[str, Tensor]]:
    """Train a study forked and straight; the weights of its branches."""
    forked, straight = (
        planned(name="forked", **changes),
        planned(name="straight", schedule__fork=False, **changes),
    )
    run_all(forked)
    run_all(straight)
    return assert_same_results(forked, straight)


def assert_stops_do_not_matter(
    planned: Planner, monkeypatch: pytest.MonkeyPatch, looks: int, **changes: object
) -> PlannedJob:
    """Train a study whose last trunk stops after so many looks, and one undisturbed; that trunk."""
    stopped = planned(name="stopped", **changes)
    stopped.make_wishes()
    trunk = only(stopped, "trunk")[-1]
    with monkeypatch.context() as patch:
        patch.setattr("sweepctl.train.loop.GLANCE_S", 0.0)
        assert run_job(stopped, trunk, StopAfter(looks)).why == "stopped"
    undisturbed = planned(name="undisturbed", schedule__fork=False, **changes)
    run_all(stopped)
    run_all(undisturbed)
    assert_same_results(stopped, undisturbed)
    return trunk
