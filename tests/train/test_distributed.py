"""One job on several processes: real ones, over the loopback interface."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sweepctl.store import attempts, checkpoints
from sweepctl.train.processes import BROKEN
from tests.conftest import Planner, only, run_all, run_job
from tests.train.team import NOISE, Team, curve, losses, losses_of_one_process, same, wipe

ONE_RUNG = {"ladder__depths": [2], "budget__tokens": [2560]}
"""A trunk of 30 steps and a branch of 10."""
LONG = {"ladder__depths": [1], "budget__tokens": [10_240], "optimizer__lr": 0.005}
"""A trunk of 120 steps. It can be interrupted where it saves at every one of them."""
SLOWLY = {"checkpoint_every_s": 1e-9}


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        (2, {}),
        (4, {"model__activation": "swiglu", "model__tied": True, "optimizer__clip_norm": 0.1}),
        (2, {"model__experts": {"count": 4, "bias_rate": 0.02}}),
    ],
)
def test_several_processes_train_what_one_trains(
    planned: Planner, teams: dict[int, Team], size: int, changes: dict[str, Any]
) -> None:
    sweep_jobs = planned(**{**ONE_RUNG, **changes, "validation__tokens": 40_000})
    run_all(sweep_jobs)
    expected, curves = losses(sweep_jobs), [curve(planned_job) for planned_job in sweep_jobs.by_id.values()]
    weights = load_file(checkpoints.newest(only(sweep_jobs, "branch")[0].folder).path / "weights.safetensors")
    wipe(sweep_jobs)
    teams[size].run_all(sweep_jobs)
    same(sweep_jobs, expected)
    for planned_job, before in zip(sweep_jobs.by_id.values(), curves, strict=True):
        assert len(before) > 1 and curve(planned_job) == pytest.approx(before, rel=NOISE)
        [attempt] = attempts.every(planned_job.folder)
        assert attempt.record["world_size"] == size
        assert attempt.record["hosts"] == [socket.gethostname()] * size
    ours = load_file(checkpoints.newest(only(sweep_jobs, "branch")[0].folder).path / "weights.safetensors")
    assert ours.keys() == weights.keys()
    biases = [name for name in weights if name.endswith("selection_bias")]
    assert all(weights[name].any() and ours[name].equal(weights[name]) for name in biases)


def test_checkpoints_move_between_world_sizes(planned: Planner, teams: dict[int, Team]) -> None:
    sweep_jobs = planned(ladder__depths=[1], budget__tokens=[1280, 2560, 5120])
    expected = losses_of_one_process(sweep_jobs)

    def train(size: int, budgets: list[int]) -> None:
        part = planned(ladder__depths=[1], budget__tokens=budgets)
        part.make_wishes()
        for planned_job in [*only(part, "trunk"), *only(part, "branch")]:
            if not part.finished(planned_job):
                done = (
                    run_job(part, planned_job).why if size == 1 else teams[size].run(part, planned_job)["why"]
                )
                assert done == "done"

    train(2, [1280])
    train(1, [1280, 2560])
    train(4, [1280, 2560, 5120])
    same(sweep_jobs, expected)
    [trunk] = only(sweep_jobs, "trunk")
    records = [attempt.record for attempt in attempts.every(trunk.folder)]
    assert [record["world_size"] for record in records] == [2, 1, 4]
    assert [record["start_step"] for record in records] == [0, 15, 30]


@pytest.mark.parametrize("rows", [1, 2])
def test_accumulation_on_several_processes_changes_nothing(
    planned: Planner, teams: dict[int, Team], rows: int
) -> None:
    sweep_jobs = planned(**{**ONE_RUNG, "batch__tokens": 128, "budget__tokens": [5120]})
    expected = losses_of_one_process(sweep_jobs)
    teams[2].run_all(sweep_jobs, micro_batch_rows=rows)
    same(sweep_jobs, expected)


@pytest.mark.parametrize("shard", ["none", "gradients"])
def test_the_compiled_model_is_shared_too(planned: Planner, pair: Team, shard: str) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a compiler")
    sweep_jobs = planned(**{**ONE_RUNG, "ladder__depths": [1], "budget__tokens": [1280]})
    expected = losses_of_one_process(sweep_jobs)
    pair.run_all(sweep_jobs, compile=True, micro_batch_rows=1, shard=shard)
    same(sweep_jobs, expected)


@pytest.mark.parametrize(
    ("size", "execution", "says"),
    [
        (4, {}, "4 processes cannot share the 6 rows of a batch (96 tokens / context 16) evenly."),
        (2, {"micro_batch_rows": 2}, "does not divide the 6 rows of a batch (96 tokens / context 16), 3 for"),
    ],
)
def test_rows_that_cannot_be_shared_are_one_sentence_and_harm_nobody(
    planned: Planner, teams: dict[int, Team], size: int, execution: dict[str, Any], says: str
) -> None:
    sweep_jobs = planned(ladder__depths=[1], batch__tokens=96, budget__tokens=[1920])
    sweep_jobs.make_wishes()
    ended = teams[size].run(sweep_jobs, only(sweep_jobs, "trunk")[0], **execution)
    assert ended["why"] == "request" and says in ended["message"] and "\n" not in ended["message"]
    next_one = planned(ladder__depths=[1], name="next", budget__tokens=[1280])
    teams[size].run_all(next_one)


@pytest.mark.parametrize(("how", "shard"), [("command", "none"), ("signal", "optimizer")])
def test_a_stopped_team_saves_and_resumes(
    planned: Planner, teams: dict[int, Team], request: pytest.FixtureRequest, how: str, shard: str
) -> None:
    sweep_jobs = planned(**LONG)
    expected = losses_of_one_process(sweep_jobs)
    sweep_jobs.make_wishes()
    [trunk] = only(sweep_jobs, "trunk")
    team = teams[2] if how == "command" else request.getfixturevalue("pair")
    team.begin(sweep_jobs, trunk, **SLOWLY, shard=shard)
    team.until("checkpoint")
    if how == "command":
        team.tell({"stop": trunk.job.id})
    else:  # as Slurm does it, to every process
        for process in team.processes:
            process.send_signal(signal.SIGTERM)
    assert team.until("end")["why"] == "stopped"
    if how == "signal":
        assert team.codes() == [0, 0]
    assert 0 < checkpoints.steps(trunk.folder)[-1] < 120
    teams[2].run_all(sweep_jobs)
    same(sweep_jobs, expected)


@pytest.mark.parametrize("shard", ["none", "gradients"])
def test_a_killed_follower_fails_the_attempt_and_a_fresh_team_goes_on(
    planned: Planner, teams: dict[int, Team], pair: Team, shard: str
) -> None:
    sweep_jobs = planned(**LONG)
    expected = losses_of_one_process(sweep_jobs)
    sweep_jobs.make_wishes()
    [trunk] = only(sweep_jobs, "trunk")
    pair.begin(sweep_jobs, trunk, **SLOWLY, shard=shard)
    pair.until("checkpoint")
    pair.processes[1].kill()
    ended = pair.until("end")
    assert ended["why"] == "infrastructure" and "lost the others" in ended["message"]
    assert "\n" not in ended["message"]
    assert pair.codes() == [BROKEN, -signal.SIGKILL]
    record = attempts.newest(trunk.folder).record
    assert record["why"] == "infrastructure" and record["error"] == ended["message"]
    assert sweep_jobs.state(trunk).failure == "infrastructure"
    teams[2].run_all(sweep_jobs)
    assert attempts.newest(trunk.folder).record["start_step"] > 0
    same(sweep_jobs, expected)


@pytest.mark.parametrize("idle", [True, False])
def test_the_others_end_when_rank_0_is_killed(planned: Planner, pair: Team, idle: bool) -> None:
    sweep_jobs = planned(**LONG)
    sweep_jobs.make_wishes()
    pair.until("ready")
    if not idle:
        pair.begin(sweep_jobs, only(sweep_jobs, "trunk")[0], **SLOWLY)
        pair.until("checkpoint")
    pair.processes[0].kill()
    assert pair.codes() == [-signal.SIGKILL, BROKEN]
    assert len(pair.logs[1].read_text().splitlines()) == 1


def test_a_follower_that_fails_says_why(planned: Planner, pair: Team, workspace, tmp_path: Path) -> None:
    """Its word reaches rank 0, which does not wait for it; here its checkpoint is gone before it looks."""
    sweep_jobs = planned(**ONE_RUNG)
    sweep_jobs.make_wishes()
    [trunk] = only(sweep_jobs, "trunk")
    pair.until("ready")
    pair.processes[1].send_signal(signal.SIGSTOP)
    pair.begin(sweep_jobs, trunk)
    while not attempts.every(trunk.folder) or "world_size" not in attempts.newest(trunk.folder).record:
        time.sleep(0.01)
    (workspace.corpus("synthetic") / "train-00000.bin").rename(tmp_path / "gone.bin")
    pair.processes[1].send_signal(signal.SIGCONT)
    ended = pair.until("end")
    assert ended["why"] == "infrastructure"
    assert ended["message"].startswith(f"Rank 1 of 2 on {socket.gethostname()} failed: ")
    assert pair.codes() == [BROKEN, 1]
