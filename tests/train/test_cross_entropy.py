"""The loss in chunks is the loss, and so are its slopes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sweepctl.spec.execution import Execution
from sweepctl.spec.learning_rate import LearningRateCurve
from sweepctl.spec.loss_chunks import CHUNK_BYTES, WORTH_BYTES, chunk_rows
from sweepctl.train.batches import Batches
from sweepctl.train.builtin import BuiltinTrainer, Objective
from sweepctl.train.cross_entropy import chunked_cross_entropy
from sweepctl.train.device import machine
from tests.conftest import Planner

ROWS, WIDTH, VOCAB = 256, 24, 97


def draw(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, WIDTH, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=dtype, requires_grad=True)
    return x, weight, torch.randint(VOCAB, (ROWS,), generator=generator)


def slopes(loss: Tensor, *tensors: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss / 3, tensors))


@pytest.mark.parametrize("chunks", [1, 16, 256])
def test_in_fp32_it_is_the_plain_loss_to_rounding(chunks: int) -> None:
    x, weight, y = draw()
    plain = F.cross_entropy(0.5 * x @ weight.t(), y)
    ours = chunked_cross_entropy(x, weight, y, 0.5, ROWS // chunks)
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slopes(ours, x, weight), slopes(plain, x, weight), rtol=1e-5, atol=1e-8)
    with torch.no_grad():
        assert torch.equal(chunked_cross_entropy(x, weight, y, 0.5, ROWS), plain) or chunks > 1


@pytest.mark.parametrize("chunks", [1, 16, 256])
def test_in_bf16_it_is_no_further_from_the_truth_than_the_plain_loss(chunks: int) -> None:
    """The truth is float64; a head's slope that was summed in bf16 would be several times as far at 256."""
    x, weight, y = draw()
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    truth = slopes(F.cross_entropy(exact[0] @ exact[1].t(), y), *exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = F.cross_entropy(F.linear(x, weight).float(), y)
        ours = chunked_cross_entropy(x, weight, y, 1.0, ROWS // chunks)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    far = [[float((s - t).norm() / t.norm()) for s, t in zip(slopes(loss, x, weight), truth, strict=True)]
           for loss in (ours, plain)]  # fmt: skip
    assert all(mine <= 1.1 * theirs for mine, theirs in zip(*far, strict=True)), far


def test_its_slopes_are_right_in_float64() -> None:
    x, weight, y = draw(torch.float64)
    x, y = x[:6].detach().requires_grad_(), y[:6]
    y[2] = -100
    assert torch.autograd.gradcheck(lambda x, w: chunked_cross_entropy(x, w, y, 0.7, 2), (x, weight))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).filter(any), st.sampled_from([1, 7, 64, ROWS]))
def test_what_is_not_counted_counts_for_nothing(counted: list[bool], rows: int) -> None:
    x, weight, y = draw()
    y = torch.where(torch.tensor(counted), y, -100)
    plain = F.cross_entropy(x @ weight.t(), y)
    ours = chunked_cross_entropy(x, weight, y, 1.0, rows)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slopes(ours, x, weight), slopes(plain, x, weight), rtol=1e-4, atol=1e-7)
    with torch.no_grad():
        torch.testing.assert_close(
            chunked_cross_entropy(x, weight, y, 1.0, rows), plain, rtol=1e-5, atol=1e-5
        )


@given(st.integers(1, 2**18), st.integers(2, 2**18))
def test_chunks_are_alike_and_small_where_there_are_any(rows: int, vocab_size: int) -> None:
    chunk = chunk_rows(rows, vocab_size)
    if chunk is None:
        assert 4 * rows * vocab_size <= WORTH_BYTES
    else:
        assert rows % chunk == 0 and (4 * chunk * vocab_size <= CHUNK_BYTES or chunk == 1)


def test_a_trainer_learns_the_same_with_it(
    planned: Planner, corpus_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten updates and an evaluation, with accumulation, tied or not; on a CPU nobody takes it unasked."""
    for tied in (False, True):
        point = planned(name=f"tied-{tied}", ladder__depths=[1], model__tied=tied).plans["all"].point(0)
        losses = []
        for chunk in (None, 4):
            with monkeypatch.context() as patch:
                if chunk is not None:
                    patch.setattr(BuiltinTrainer, "_chunk_rows", lambda self, sequences: 4)
                execution = Execution(device="cpu", micro_batch_rows=2)
                where = machine(execution, point.precision)
                trainer = BuiltinTrainer(point, Batches(corpus_folder, point), where, execution)
            trainer.share()
            assert trainer.setup().loss_chunks == (1 if chunk is None else 2 * 16 // 4)
            own = [float(trainer.update(LearningRateCurve(warmup=4)).loss) for _ in range(10)]
            losses.append([*own, trainer.evaluate("validation", 512)])
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_torch_compile_takes_it_whole(planned: Planner) -> None:
    from sweepctl.train.model import Decoder
    from sweepctl.train.ops import plain

    point = planned(ladder__depths=[1]).plans["all"].point(0)
    net = Decoder(point.shape, point.model, point.parametrization, VOCAB, 16, plain())
    net.initialize(0)
    x, y = torch.randint(VOCAB, (4, 16)), torch.randint(VOCAB, (4, 16))
    eager, chunked = Objective(net), torch.compile(Objective(net, 16), fullgraph=True, dynamic=False)
    losses = [objective(x, y)[0] for objective in (eager, chunked)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    parameters = list(net.parameters())
    ours, theirs = slopes(losses[1], *parameters), slopes(losses[0], *parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
