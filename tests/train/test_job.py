"""What a job does besides forking: divergence, accumulation, precision, records."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch

from sweepctl.data.shards import read_index, verify
from sweepctl.errors import StorageError
from sweepctl.spec.science import NUMERICS
from sweepctl.store import attempts, checkpoints
from sweepctl.store.ends import End
from sweepctl.store.job import JobFolder
from sweepctl.train.batches import Batches
from sweepctl.train.builtin import BuiltinTrainer
from sweepctl.train.job import run
from sweepctl.train.processes import out_of_memory
from tests.conftest import Planner, manifest, only, run_all, run_job, tiny


def losses(sweep_jobs) -> list[float]:
    return [planned_job.folder.result().loss_nats["validation"] for planned_job in only(sweep_jobs, "branch")]


def poison(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Trunks meet a NaN in the weights at this step."""
    update = BuiltinTrainer.update

    def poisoned(self: BuiltinTrainer, curve):
        if self.step == at and curve.cut is None:
            with torch.no_grad():
                self.model.embedding.fill_(math.nan)
        return update(self, curve)

    monkeypatch.setattr(BuiltinTrainer, "update", poisoned)


def test_the_reference_loss_has_not_moved(planned: Planner) -> None:
    """Raise NUMERICS when this fails on purpose: results made before then keep their ids and meaning."""
    sweep_jobs = planned(ladder__depths=[2], budget__tokens=[2560])
    run_all(sweep_jobs, gemm="torch")
    assert NUMERICS == 1
    assert losses(sweep_jobs) == pytest.approx([2.87432], abs=2e-4)


@pytest.mark.parametrize("lr", [1e4, 1e30])
def test_a_diverged_run_is_a_result(planned: Planner, lr: float) -> None:
    sweep_jobs = planned(optimizer__lr=lr, parametrization__name="standard", parametrization__zero_head=False)
    run_all(sweep_jobs)
    for trunk in only(sweep_jobs, "trunk"):
        result = trunk.folder.result()
        assert result.end is End.DIVERGED and result.step < 30
        assert "loss" in result.reason and "loss_nats" not in result.record()
    for branch in only(sweep_jobs, "branch"):
        state = sweep_jobs.state(branch)
        assert state.state == "diverged" and sweep_jobs.finished(branch)


@pytest.mark.parametrize(("worst", "word"), [(1690.0, "above"), (math.nan, "not finite")])
def test_a_final_loss_beyond_the_bound_is_diverged(planned: Planner, monkeypatch, worst, word: str) -> None:
    """Also where the training loss was not looked at since it left the bounds."""
    sweep_jobs = planned(ladder__depths=[1], divergence__every_steps=1000)
    monkeypatch.setattr(BuiltinTrainer, "evaluate", lambda self, name, tokens: worst)
    run_all(sweep_jobs)
    for branch in only(sweep_jobs, "branch"):
        result = branch.folder.result()
        assert result.end is End.DIVERGED and f"the final loss is {word}" in result.reason
        assert not result.loss_nats


def test_one_foreign_set_of_several_is_no_divergence(planned: Planner, monkeypatch) -> None:
    sweep_jobs = planned(ladder__depths=[1])
    losses = {"validation": 3.0, "foreign": 9.0}
    monkeypatch.setattr(BuiltinTrainer, "held_out", property(lambda self: tuple(losses)))
    monkeypatch.setattr(BuiltinTrainer, "evaluate", lambda self, name, tokens: losses[name])
    monkeypatch.setattr(BuiltinTrainer, "bits_per_byte", lambda self, name, loss: None)
    run_all(sweep_jobs)
    assert all(branch.folder.result().loss_nats == losses for branch in only(sweep_jobs, "branch"))


@pytest.mark.parametrize("slow", ["evaluate", "save", "update"])
def test_ownership_is_renewed_while_the_loop_is_busy(planned: Planner, monkeypatch, slow: str) -> None:
    """A final evaluation, a checkpoint or a first step that outlasts the lease."""
    monkeypatch.setattr(attempts, "RENEW_S", 0.001)
    renewed = threading.Event()
    renew, step = attempts.Attempt.renew, getattr(BuiltinTrainer, slow)

    def noted(self: attempts.Attempt) -> None:
        renew(self)
        renewed.set()

    def slowly(self: BuiltinTrainer, *args, **settings):
        renewed.clear()
        assert renewed.wait(60)
        return step(self, *args, **settings)

    monkeypatch.setattr(attempts.Attempt, "renew", noted)
    monkeypatch.setattr(BuiltinTrainer, slow, slowly)
    run_all(planned(ladder__depths=[1], budget__tokens=[1280]))


def test_a_branch_whose_checkpoint_came_before_the_divergence_lives(planned: Planner, monkeypatch) -> None:
    poison(monkeypatch, 20)
    sweep_jobs = planned(ladder__depths=[1])
    run_all(sweep_jobs)
    early, late = only(sweep_jobs, "branch")
    assert early.folder.result().is_done
    assert sweep_jobs.state(late).state == "diverged" and not late.folder.has_result()
    assert sweep_jobs.finished(late)


@pytest.mark.parametrize("rows", [1, 2])
def test_accumulation_changes_nothing_but_rounding(planned: Planner, rows: int) -> None:
    whole, pieces = planned(name="whole"), planned(name="pieces", seed__data=0)
    run_all(whole)
    expected = losses(whole)
    for planned_job in whole.by_id.values():
        shutil.rmtree(planned_job.folder.path)
    run_all(pieces, micro_batch_rows=rows)
    assert losses(pieces) == pytest.approx(expected, rel=1e-4)


def test_a_micro_batch_that_does_not_fit_is_one_sentence(planned: Planner) -> None:
    sweep_jobs = planned()
    sweep_jobs.make_wishes()
    outcome = run_job(sweep_jobs, only(sweep_jobs, "trunk")[0], micro_batch_rows=3)
    assert outcome.why == "request" and "does not divide the 4 rows" in outcome.message


def test_bf16_trains_close_to_fp32(planned: Planner) -> None:
    full, half = (
        planned(name="full", ladder__depths=[1]),
        planned(name="half", ladder__depths=[1], precision="bf16"),
    )
    run_all(full)
    run_all(half)
    assert losses(half) == pytest.approx(losses(full), rel=0.02)
    assert losses(half) != losses(full)


def test_other_data_than_the_plans_is_refused(planned: Planner, workspace) -> None:
    from sweepctl.data.corpora import prepare_synthetic

    sweep_jobs = planned()
    sweep_jobs.make_wishes()
    shutil.rmtree(workspace.corpus("synthetic"))
    prepare_synthetic(workspace.corpus("synthetic"), seed=9, train_tokens=70_000, validation_tokens=66_000)
    outcome = run_job(sweep_jobs, only(sweep_jobs, "trunk")[0])
    assert outcome.why == "request" and "the plan was made on" in outcome.message


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_an_unreadable_shard_is_one_sentence(planned: Planner, workspace, damage: str) -> None:
    sweep_jobs = planned()
    sweep_jobs.make_wishes()
    shard = workspace.corpus("synthetic") / "train-00000.bin"
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-1])
    outcome = run_job(sweep_jobs, only(sweep_jobs, "trunk")[0])
    assert outcome.why == "failed" and "prepare the data again" in outcome.message
    assert "\n" not in outcome.message


def test_a_shard_that_was_changed_in_place_is_not_trained_on(planned: Planner, workspace) -> None:
    """Its size and time kept, after the launch has looked at it."""
    sweep_jobs = planned(ladder__depths=[1])
    sweep_jobs.make_wishes()
    folder = workspace.corpus("synthetic")
    verify(folder, read_index(folder))
    shard = folder / "train-00000.bin"
    before = shard.stat()
    with open(shard, "r+b") as file:
        file.write(bytes([file.read(1)[0] ^ 1]))
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    outcome = run_job(sweep_jobs, only(sweep_jobs, "trunk")[0])
    assert outcome.why == "failed" and "its content changed" in outcome.message


def test_shards_are_read_whole_once_where_nothing_can_be_written(
    workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, value: object) -> None:
        raise StorageError("read-only")

    hashed = []
    monkeypatch.setattr("sweepctl.data.shards.write_json", refused)
    monkeypatch.setattr(
        "sweepctl.data.shards.file_hash", lambda path, offset=0: hashed.append(path) or "other"
    )
    folder = workspace.corpus("synthetic")
    index = read_index(folder)
    shards = [shard for split in index.splits.values() for shard in split.shards]
    for shard in shards:
        object.__setattr__(shard, "sha256", "other")
    (folder / "verified.json").unlink(missing_ok=True)
    for _ in range(2):
        verify(folder, index)
    assert len(hashed) == len(shards)


def test_batch_sizes_see_the_same_tokens_in_the_same_order(workspace, facts) -> None:
    from sweepctl.plan.expand import expand

    folder = workspace.corpus("synthetic")
    tokens = []
    for rows in (1, 2, 4):
        point = expand(tiny(batch__tokens=16 * rows), "all", facts).point(0)
        batches = Batches(folder, point)
        tokens.append(torch.cat([batches.batch(step)[0] for step in range(12 // rows)]))
    assert torch.equal(tokens[0], tokens[1]) and torch.equal(tokens[0], tokens[2])


def test_order_depends_on_the_data_seed_alone(workspace, facts) -> None:
    from sweepctl.plan.expand import expand

    def first(**changes) -> torch.Tensor:
        return Batches(workspace.corpus("synthetic"), expand(tiny(**changes), "all", facts).point(0)).batch(
            0
        )[0]

    assert torch.equal(first(), first(seed__init=5))
    assert not torch.equal(first(), first(seed__data=5))


def test_targets_are_the_next_tokens(workspace, facts) -> None:
    from sweepctl.plan.expand import expand

    inputs, targets = Batches(workspace.corpus("synthetic"), expand(tiny(), "all", facts).point(0)).batch(3)
    assert inputs.shape == targets.shape == (4, 16)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_curve_points_lie_at_the_same_tokens_for_every_batch_size() -> None:
    from itertools import islice

    from sweepctl.train.loop import curve_steps

    small = [step * 64 for step in islice(curve_steps(64, 4), 40)]
    large = [step * 256 for step in islice(curve_steps(256, 4), 20)]
    assert small == sorted(set(small))
    assert set(large) <= set(small)
    assert next(curve_steps(64, 0)) > 10**9


def test_what_an_attempt_says_of_itself(planned: Planner) -> None:
    sweep_jobs = planned(ladder__depths=[1])
    run_all(sweep_jobs)
    record = attempts.newest(only(sweep_jobs, "trunk")[0].folder).record
    assert record["why"] == "done" and record["started"] <= record["ended"]
    assert record["trained_tokens"] == 30 * 64 and record["tokens_per_s"] > 0
    assert record["mfu"] is None  # no peak is known for a CPU, so none is guessed
    assert {"torch", "numpy", "python", "sweepctl"} == set(record["versions"])
    assert len(record["code"]) == 16 and record["device"] and record["gemm"] in ("torch", "onednn")
    assert "OMP_NUM_THREADS" in record["environment"]
    text = json.dumps(record)
    assert not any(
        value and len(value) > 24 and value in text for value in os.environ.values() if "/" not in value
    )


def test_an_unexpected_error_is_recorded_with_its_last_lines(planned: Planner, monkeypatch) -> None:
    sweep_jobs = planned(ladder__depths=[1])
    sweep_jobs.make_wishes()
    trunk = only(sweep_jobs, "trunk")[0]
    with monkeypatch.context() as patch:
        patch.setattr(BuiltinTrainer, "update", lambda *_: 1 / 0)
        assert run_job(sweep_jobs, trunk).why == "failed"
    record = attempts.newest(trunk.folder).record
    assert record["why"] == "failed" and "ZeroDivisionError" in record["error"]
    assert sweep_jobs.state(trunk).state == "failed"
    assert run_job(sweep_jobs, trunk).why == "done"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_out_of_memory(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_resume_checkpoints_roll(planned: Planner) -> None:
    sweep_jobs = planned(ladder__depths=[1], budget__tokens=[2560])
    sweep_jobs.make_wishes()
    trunk = only(sweep_jobs, "trunk")[0]
    kept = []

    from sweepctl.store import retention

    roll = retention.roll

    def watched(folder, keep_newest=retention.RESUME):
        roll(folder, keep_newest)
        kept.append(checkpoints.steps(folder))

    retention.roll = watched
    try:
        run_job(sweep_jobs, trunk, checkpoint_every_s=1e-9)
    finally:
        retention.roll = roll
    assert max(map(len, kept)) == 2 and len(kept) > 20
    assert checkpoints.steps(trunk.folder) == [30]


@pytest.mark.parametrize(
    ("keep", "trunk_steps", "final"), [("all", [15, 30], True), ("last", [30], True), ("none", [], False)]
)
def test_what_is_kept_when_all_is_done(
    planned: Planner, keep: str, trunk_steps: list[int], final: bool
) -> None:
    sweep_jobs = planned(ladder__depths=[1])
    run_all(sweep_jobs, keep=keep)
    assert checkpoints.steps(only(sweep_jobs, "trunk")[0].folder) == trunk_steps
    for branch in only(sweep_jobs, "branch"):
        assert bool(checkpoints.steps(branch.folder)) == final
    assert all(sweep_jobs.finished(planned_job) for planned_job in sweep_jobs.by_id.values())


def test_a_checkpoint_a_branch_still_needs_is_kept(planned: Planner) -> None:
    sweep_jobs = planned(ladder__depths=[1])
    sweep_jobs.make_wishes("none")
    trunk = only(sweep_jobs, "trunk")[0]
    run_job(sweep_jobs, trunk, keep="none")
    first, second = only(sweep_jobs, "branch")
    run_job(sweep_jobs, first, keep="none")
    assert checkpoints.steps(trunk.folder) == [30]
    run_job(sweep_jobs, second, keep="none")
    assert checkpoints.steps(trunk.folder) == []


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835.5e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H200 NVL", 835.5e12),
        ("NVIDIA GH200 480GB", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("NVIDIA GB200", None),
        ("NVIDIA A10", None),
        ("Tesla T4", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_mfu_is_of_the_devices_own_peak_or_not_at_all(name: str, peak: float | None) -> None:
    """Whole words: an L40 is no L4, a GB200 no B200, and a part or a slower make nothing that is known."""
    from sweepctl.spec.peaks import peak_flops

    assert peak_flops(name) == peak


def test_a_job_without_its_folder_says_nothing_twice(planned: Planner, tmp_path: Path) -> None:
    sweep_jobs = planned(ladder__depths=[1])
    run_all(sweep_jobs)
    branch = only(sweep_jobs, "branch")[0]
    before = attempts.newest(branch.folder).number
    assert run_job(sweep_jobs, branch).why == "done"
    assert attempts.newest(branch.folder).number == before


def test_another_science_under_a_jobs_name_is_refused(planned: Planner) -> None:
    sweep_jobs = planned(ladder__depths=[1])
    [trunk] = only(sweep_jobs, "trunk")
    sweep_jobs.make_wishes()
    of_trunk = manifest(sweep_jobs, trunk)
    changed = {**of_trunk.science, "optimizer": {**of_trunk.science["optimizer"], "lr": 0.5}}
    outcome = run(dataclasses.replace(of_trunk, science=changed), threading.Event(), lambda event: None)
    assert outcome.why == "request" and "was given the science of" in outcome.message
    assert trunk.folder.record() is None


def test_older_numerics_are_refused(planned: Planner, monkeypatch) -> None:
    sweep_jobs = planned(ladder__depths=[1])
    sweep_jobs.make_wishes()
    monkeypatch.setattr("sweepctl.train.job.NUMERICS", 99)
    outcome = run_job(sweep_jobs, only(sweep_jobs, "trunk")[0])
    assert outcome.why == "request" and "planned for numerics 1" in outcome.message


def test_what_another_process_finished_meanwhile_is_not_trained_again(planned: Planner, monkeypatch) -> None:
    sweep_jobs = planned(ladder__depths=[1])
    run_all(sweep_jobs)
    branch = only(sweep_jobs, "branch")[0]
    of_branch, looks = manifest(sweep_jobs, branch), iter([None, branch.folder.result()])
    monkeypatch.setattr(JobFolder, "result", lambda self: next(looks))
    assert run(of_branch, threading.Event(), lambda event: None).why == "done"
    monkeypatch.undo()
    assert "trained_tokens" not in attempts.every(branch.folder)[-1].record


def test_the_step_of_a_divergence_alone_decides_which_branches_live(planned: Planner, monkeypatch) -> None:
    """A budget asked for after its trunk diverged beyond its cut ends as if it had been asked for before."""
    poison(monkeypatch, 40)
    budgets = {"budget__tokens": [1280, 2560, 5120], "ladder__depths": [1]}
    late = planned(name="late", **{**budgets, "budget__tokens": [5120]})
    run_all(late)
    sweep_jobs = planned(name="late", **budgets)
    run_all(sweep_jobs)
    states = [sweep_jobs.state(planned_job).state for planned_job in only(sweep_jobs, "branch")]
    assert sorted(states) == ["diverged", "done", "done"]
