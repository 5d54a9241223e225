"""Bytes counted without torch against those that autograd, the optimizers and a whole update take."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from sweepctl.spec.activations import kept
from sweepctl.spec.execution import Execution
from sweepctl.spec.learning_rate import LearningRateCurve
from sweepctl.spec.memory import Layout, count_memory
from sweepctl.spec.model import Architecture, Experts, Shape
from sweepctl.spec.science import Batch, Corpus, Point
from sweepctl.store import attempts
from sweepctl.train.batches import Batches
from sweepctl.train.builtin import BuiltinTrainer
from sweepctl.train.device import machine
from sweepctl.train.model import Decoder
from sweepctl.train.ops import plain
from tests.conftest import Planner, only, run_job
from tests.models import some_architecture, some_parametrization
from tests.optimizers import optimizer
from tests.train.architectures import ARCHITECTURES

VOCAB, CONTEXT, ROWS = 10, 48, 4
SHAPE = Shape(48, 4, 6, 96)
MORE = [
    some_architecture(experts=Experts(4, 2, shared=1, scores="sigmoid")),
    some_architecture("gelu", gains=True, experts=Experts(4, 1)),
    some_architecture("relu2", mixers=("linear",), linear_chunk=8),
    some_architecture(
        norm="layernorm", gains=True, mixers=("linear",), linear_gate="head_size", linear_chunk=20
    ),
    some_architecture(mixers=("linear", "softmax"), linear_gate="none", experts=Experts(4, 2)),
]
TOLERANCE = 1.1
"""A count may be so much too high, and not too low."""


def point_of(model: Architecture, precision: str) -> Point:
    batch, corpus = Batch(ROWS * CONTEXT, CONTEXT), Corpus("0" * 8, VOCAB)
    science = (SHAPE, model, some_parametrization(init_std=0.2), optimizer("adamw"), 1, batch, corpus)
    return replace(Point(*science), precision=precision)  # type: ignore[arg-type]


def kept_by_torch(point: Point, recomputes: bool = False) -> int:
    """Bytes of all memory that autograd holds on to before a backward pass, but for weights, tables that have
    nothing of each token, and the softmax of the logits."""
    net = Decoder(point.shape, point.model, point.parametrization, VOCAB, CONTEXT, plain())
    net.initialize(0)
    net.recomputes = recomputes
    tokens = torch.arange(ROWS * CONTEXT).reshape(ROWS, CONTEXT) % VOCAB
    targets = tokens.flip(0).contiguous().reshape(-1)
    held: dict[int, Tensor] = {}

    def hold(tensor: Tensor) -> Tensor:
        held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    autocast = point.precision == "bf16"
    in_fp32 = point.model.kv_heads(point.shape) < point.shape.n_heads and not autocast
    with (
        sdpa_kernel(SDPBackend.MATH) if in_fp32 else nullcontext(),
        torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        loss = F.cross_entropy(net(tokens).logits.float(), targets)
    assert loss.requires_grad
    of_model = {tensor.untyped_storage().data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    of_tokens = [
        tensor.untyped_storage().nbytes()
        for place, tensor in held.items()
        if place not in of_model
        and tensor.untyped_storage().nbytes() >= tokens.numel() * tensor.element_size()
    ]
    return sum(of_tokens) - tokens.numel() * VOCAB * 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [*ARCHITECTURES, *MORE])
def test_activations_are_what_autograd_keeps(model: Architecture, precision: str) -> None:
    """With the copies of weights that autocast makes."""
    point = point_of(model, precision)
    counted, torch_bytes = count_memory(point, Layout(ROWS)), kept_by_torch(point)
    assert torch_bytes <= counted.activations + counted.copies <= TOLERANCE * torch_bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [ARCHITECTURES[0], ARCHITECTURES[1], *MORE])
def test_blocks_that_are_computed_anew_keep_their_inputs(model: Architecture, precision: str) -> None:
    """And one of them, while it is computed, all that it would have kept."""
    point = point_of(model, precision)
    of_sequence = kept(point.shape, model, CONTEXT, precision == "bf16")
    counted = ROWS * (of_sequence.total(recomputes=True) - max(of_sequence.by_block.values()))
    head = 2 * VOCAB * point.shape.d_model if precision == "bf16" else 0
    torch_bytes = kept_by_torch(point, recomputes=True)
    assert torch_bytes <= counted + head <= TOLERANCE * torch_bytes


def trainer_of(
    planned: Planner, corpus: Path, changes: dict[str, Any], vocab_size: int | None = None, **how: Any
) -> BuiltinTrainer:
    sizes: dict[str, Any] = {
        "ladder__depths": [4],
        "ladder__head_size": 16,
        "batch__tokens": 2048,
        "batch__context": 128,
    }
    sizes["budget__tokens"] = [81920]
    point = planned(**{**sizes, **changes}).plans["all"].point(0)
    if vocab_size is not None:
        point = replace(point, corpus=replace(point.corpus, vocab_size=vocab_size))
    execution = Execution(device="cpu", **how)
    return BuiltinTrainer(point, Batches(corpus, point), machine(execution, point.precision), execution)


@pytest.mark.parametrize("changes", [{"momentum": 0.9}, {"momentum": 0.0}])
@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "muon"])
def test_weights_and_moments_are_those_of_torch(
    planned: Planner, corpus_folder: Path, name: str, changes: dict[str, float]
) -> None:
    own = {f"optimizer__{key}": value for key, value in changes.items() if name == "sgd"}
    trainer = trainer_of(planned, corpus_folder, {"optimizer__name": name, **own})
    trainer.update(LearningRateCurve(warmup=2))
    counted = count_memory(trainer.point, Layout(trainer.micro_rows))
    parameters = sum(parameter.nbytes for parameter in trainer.model.parameters())
    state = [t for key, t in trainer.optimizer.state().items() if not key.endswith(".step")]
    assert (counted.weights, counted.gradients) == (parameters, parameters)
    assert counted.moments == sum(tensor.nbytes for tensor in state)


@pytest.mark.parametrize("model", ["dense", "experts", "linear"])
@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_update_takes_no_more_than_is_counted(
    planned: Planner, corpus_folder: Path, model: str, recomputes: bool, name: str
) -> None:
    """What is allocated in a second update at once, beside weights and moments, which were there before."""
    models: dict[str, dict[str, Any]] = {
        "dense": {"model__activation": "swiglu"},
        "experts": {"model__experts": {"count": 4, "top_k": 2}},
        "linear": {"model__mixers": ["linear"], "model__linear_chunk": 16},
    }
    changes = {**models[model], "precision": "bf16", "optimizer__name": name}
    trainer = trainer_of(planned, corpus_folder, changes, checkpoint_activations=recomputes)
    most = most_of_an_update(trainer)
    counted = count_memory(trainer.point, Layout(trainer.micro_rows, recomputes=recomputes))
    passing = counted.total - counted.weights - counted.moments
    assert most <= passing <= 2 * most


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rows", [2, None])
def test_logits_in_chunks_take_no_more_than_is_counted(
    planned: Planner, corpus_folder: Path, monkeypatch: pytest.MonkeyPatch, tied: bool, rows: int | None
) -> None:
    """As a GPU has them, the most of what there is; with and without a gradient of pieces before."""
    monkeypatch.setattr(BuiltinTrainer, "_chunk_rows", lambda self, sequences: 64)
    changes = {"model__tied": tied, "precision": "bf16"}
    trainer = trainer_of(planned, corpus_folder, changes, vocab_size=8192, micro_batch_rows=rows)
    most = most_of_an_update(trainer)
    counted = count_memory(trainer.point, Layout(trainer.micro_rows, loss_rows=64))
    passing = counted.total - counted.weights - counted.moments
    assert most <= passing <= 2 * most


def most_of_an_update(trainer: BuiltinTrainer) -> int:
    """The most bytes that a second update has allocated at once."""
    curve = LearningRateCurve(warmup=2)
    trainer.update(curve)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainer.update(curve)
    bytes_now = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            bytes_now += event.nbytes()
            most = max(most, bytes_now)
    return most


def test_auto_is_the_whole_batch_on_a_cpu(planned: Planner, corpus_folder: Path) -> None:
    trainer = trainer_of(planned, corpus_folder, {}, micro_batch_rows="auto")
    assert trainer.micro_rows == trainer.point.batch.rows and trainer.setup().counted_memory_bytes is None


def test_auto_goes_on_with_the_rows_of_what_it_goes_on_from(planned: Planner) -> None:
    """Also where its trunk had to do with fewer than all, so that it computes the same sums."""
    sweep_jobs = planned(ladder__depths=[1])
    [trunk] = only(sweep_jobs, "trunk")
    sweep_jobs.make_wishes("all")
    run_job(sweep_jobs, trunk, micro_batch_rows=2)
    for branch in only(sweep_jobs, "branch"):
        run_job(sweep_jobs, branch, micro_batch_rows="auto")
        [attempt] = attempts.every(branch.folder)
        assert attempt.facts.micro_batch_rows == 2 and attempt.facts.peak_memory_bytes is None
