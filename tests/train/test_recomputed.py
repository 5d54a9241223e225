"""Activations that the backward pass computes anew: nothing but memory changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sweepctl.spec.execution import Execution
from sweepctl.spec.learning_rate import LearningRateCurve
from sweepctl.spec.model import Experts, Shape
from sweepctl.train.batches import Batches
from sweepctl.train.builtin import BuiltinTrainer
from sweepctl.train.device import machine
from sweepctl.train.model import Decoder
from sweepctl.train.ops import plain
from tests.conftest import Planner
from tests.models import some_architecture, some_parametrization
from tests.train.team import Team, losses_of_one_process, same, wipe

MODELS: dict[str, dict[str, Any]] = {
    "dense": {"model__biases": True, "model__gains": True},
    "grouped": {"model__activation": "swiglu", "model__queries_per_kv": 2, "model__qk_norm": True},
    "experts": {"model__experts": {"count": 4, "top_k": 2, "bias_rate": 0.02, "balance_loss": 0.1}},
    "linear": {"model__mixers": ["linear", "softmax"], "model__linear_chunk": 8},
}


def trainer_of(planned: Planner, corpus: Path, changes: dict[str, Any], **execution: Any) -> BuiltinTrainer:
    point = planned(**{"ladder__depths": [2], **changes}).plans["all"].point(0)
    how = Execution(device="cpu", **execution)
    return BuiltinTrainer(point, Batches(corpus, point), machine(how, point.precision), how)


def three_updates(trainer: BuiltinTrainer) -> list[Tensor]:
    """Losses, loads of experts, and all weights."""
    curve = LearningRateCurve(warmup=2)
    updates = [trainer.update(curve) for _ in range(3)]
    said = [value for update in updates for value in (update.loss, *update.further().values())]
    return [torch.as_tensor(value) for value in said] + [p.detach() for p in trainer.model.parameters()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", MODELS)
def test_updates_are_the_same_to_the_bit(
    planned: Planner, corpus_folder: Path, model: str, precision: str
) -> None:
    """Loads of experts too: each token counts once."""
    changes = {**MODELS[model], "precision": precision}
    kept, anew = (
        trainer_of(planned, corpus_folder, changes, micro_batch_rows=2, checkpoint_activations=again)
        for again in (False, True)
    )
    assert all(torch.equal(a, b) for a, b in zip(three_updates(kept), three_updates(anew), strict=True))


@pytest.mark.parametrize("experts", [None, Experts(4, 2, bias_rate=0.1)])
def test_torch_compile_follows_it(experts: Experts | None) -> None:
    """As one graph in bf16; no code is generated."""
    model = some_architecture(activation="relu2", experts=experts)
    net = Decoder(Shape(16, 2, 2, 32), model, some_parametrization(init_std=0.2), 50, 12, plain())
    net.initialize(0)
    x = torch.arange(24).reshape(2, 12)
    came_to = []
    for recomputes in (False, True):
        net.recomputes = recomputes
        net.zero_grad()
        torch.compiler.reset()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, penalty = torch.compile(net, backend="aot_eager", fullgraph=True)(x)
        loss = F.cross_entropy(logits.float(), x.flatten())
        (loss if penalty is None else loss + penalty).backward()
        came_to.append([loss, *(p.grad for p in net.parameters())])
        if experts is not None:
            assert [int(block.mlp.loads.sum()) for block in net.blocks] == [2 * 24] * 2
            for block in net.blocks:
                block.mlp.loads.zero_()
    assert all(torch.equal(a, b) for a, b in zip(*came_to, strict=True))


def test_processes_that_compute_anew_train_what_one_trains(planned: Planner, teams: dict[int, Team]) -> None:
    sweep_jobs = planned(ladder__depths=[1], budget__tokens=[1280], **MODELS["experts"])
    one_process = losses_of_one_process(sweep_jobs)
    for shard in ("none", "gradients"):
        teams[2].run_all(sweep_jobs, shard=shard, micro_batch_rows=1, checkpoint_activations=True)
        same(sweep_jobs, one_process)
        wipe(sweep_jobs)
