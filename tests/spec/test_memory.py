"""What fits a device, counted without torch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweepctl.spec.execution import Execution
from sweepctl.spec.loss_chunks import chunk_rows
from sweepctl.spec.memory import Layout, choose_layout, count_memory, divisors
from sweepctl.spec.model import Experts, Shape
from sweepctl.spec.peaks import gpu_memory_bytes
from sweepctl.spec.science import Batch, Corpus, Point
from sweepctl.spec.weights import weights
from tests.models import some_architecture, some_parametrization
from tests.optimizers import optimizer

GB = 10**9
EIGHTY = 80 * GB
LARGE = Point(
    shape=Shape(2560, 32, 20, 7680),
    model=some_architecture(),
    parametrization=some_parametrization(),
    optimizer=optimizer("adamw"),
    warmup_steps=100,
    batch=Batch(tokens=2**20, context=4096),
    corpus=Corpus("0" * 8, 50304),
    precision="bf16",
)
"""A llama of 3B parameters."""


def elements(point: Point) -> int:
    tensors = weights(point.shape, point.model, point.corpus.vocab_size, point.batch.context)
    return sum(tensor.elements for tensor in tensors)


def test_three_billion_parameters_fit_on_eight_gpus_of_80_gb_that_share_out_and_on_none_alone() -> None:
    """By the row, blocks computed anew: what is left is weights, gradients and moments."""
    assert 2.9e9 < elements(LARGE) < 3.2e9
    least = Layout(1, recomputes=True)
    assert not count_memory(LARGE, replace(least, rows=8)).fits(EIGHTY)
    assert not count_memory(LARGE, replace(least, rows=4, processes=8)).fits(EIGHTY)
    for shard in ("optimizer", "gradients"):
        assert count_memory(LARGE, replace(least, rows=4, processes=8, shard=shard)).fits(EIGHTY)
    how = Execution(micro_batch_rows="auto", checkpoint_activations=True)
    layout = choose_layout(LARGE, how, 8, EIGHTY)
    assert layout.shard in ("optimizer", "gradients") and layout.rows >= 4


@pytest.mark.parametrize(("name", "moments"), [("adamw", 2), ("lion", 1), ("sgd", 1)])
def test_state_is_four_bytes_a_number(name: str, moments: int) -> None:
    point = replace(LARGE, optimizer=optimizer(name))
    needs = count_memory(point, Layout(1))
    assert needs.weights == needs.gradients == 4 * elements(point)
    assert needs.moments == moments * needs.weights


def test_muon_keeps_one_moment_of_matrices_and_two_of_the_rest() -> None:
    needs = count_memory(replace(LARGE, optimizer=optimizer("muon")), Layout(1))
    assert 4 * elements(LARGE) < needs.moments < 8 * elements(LARGE)


def test_what_needs_more_is_counted_as_more() -> None:
    sizes = [count_memory(LARGE, Layout(rows)).total for rows in (1, 2, 4)]
    assert sizes == sorted(sizes)
    assert (
        count_memory(LARGE, Layout(4, recomputes=True)).activations
        < count_memory(LARGE, Layout(4)).activations
    )
    fp32 = replace(LARGE, precision="fp32")
    assert count_memory(fp32, Layout(1)).activations > count_memory(LARGE, Layout(1)).activations
    grouped = replace(fp32, model=some_architecture(queries_per_kv=4))
    assert count_memory(grouped, Layout(1)).activations > count_memory(fp32, Layout(1)).activations
    sparse = replace(LARGE, model=some_architecture(experts=Experts(8, 2)))
    assert count_memory(sparse, Layout(1)).weights > 2 * count_memory(LARGE, Layout(1)).weights


def test_auto_takes_the_largest_divisor_that_fits() -> None:
    point = replace(LARGE, shape=Shape(1024, 12, 8, 3072), batch=Batch(tokens=96 * 1024, context=1024))
    auto = Execution(micro_batch_rows="auto")
    assert divisors(96) == [96, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1]
    rows = [choose_layout(point, auto, memory_bytes=gb * GB).rows for gb in (192, 80, 40, 24, 8, 1)]
    assert rows == sorted(rows, reverse=True) and rows[0] == 96 and rows[-1] == 1
    for gb, size in zip((80, 40, 24), rows[1:], strict=False):
        of_rows = {n: Layout(n, loss_rows=chunk_rows(n * 1024, 50304)) for n in divisors(96)}
        assert choose_layout(point, auto, memory_bytes=gb * GB) == of_rows[size]
        assert count_memory(point, of_rows[size]).fits(gb * GB)
        larger = [layout for rows, layout in of_rows.items() if rows > size]
        assert not any(count_memory(point, layout).fits(gb * GB) for layout in larger)
    assert choose_layout(point, auto, 2).rows == 48
    on_a_cpu, on_a_gpu = (choose_layout(point, Execution(), memory_bytes=size) for size in (None, GB))
    assert (on_a_cpu.loss_rows, on_a_gpu.loss_rows) == (None, of_rows[96].loss_rows)
    chunked, whole = (count_memory(point, layout) for layout in (on_a_gpu, on_a_cpu))
    assert chunked.logits < whole.logits / 2
    assert choose_layout(point, Execution(micro_batch_rows=8), memory_bytes=GB).rows == 8


def test_what_is_free_decides_rows_and_not_what_is_shared_out() -> None:
    """A trainer shares out by all of a GPU's memory, whoever else is there."""
    point = replace(LARGE, shape=Shape(1024, 12, 8, 3072), batch=Batch(tokens=96 * 1024, context=1024))
    auto = Execution(micro_batch_rows="auto")
    alone = choose_layout(point, auto, 2, 80 * GB)
    beside = choose_layout(point, auto, 2, 80 * GB, 6 * GB)
    assert beside.rows < alone.rows and beside.shard == alone.shard == "none"
    assert choose_layout(point, auto, 2, 6 * GB).shard != "none"


@pytest.mark.parametrize(
    ("name", "gb"),
    [
        ("NVIDIA H100 80GB HBM3", 80),
        ("H100", 80),
        ("NVIDIA H100 NVL", 94),
        ("NVIDIA H200", 141),
        ("NVIDIA A100-SXM4-40GB", 40),
        ("NVIDIA A100-SXM4-80GB", 80),
        ("A100", 40),
        ("NVIDIA H100 MIG 1g.10gb", None),
        ("a card of tomorrow", None),
    ],
)
def test_memory_of_gpus_by_name(name: str, gb: int | None) -> None:
    assert gpu_memory_bytes(name) == (None if gb is None else gb * GB)
