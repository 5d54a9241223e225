"""Counts of linear and hybrid models against the formulas of MiniMax-01."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sweepctl.spec.accounting import count, hidden_parameters
from sweepctl.spec.model import Mixer, Shape
from tests.models import some_architecture

VOCAB, CONTEXT = 100, 8192
MIXERS: dict[str, tuple[Mixer, ...]] = {
    "softmax": ("softmax",),
    "lightning": ("linear",),
    "hybrid": (*("linear",) * 7, "softmax"),
}


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize(("d", "h"), [(512, 4), (6144, 48)])
def test_minimax_01s_table_1(name: str, d: int, h: int) -> None:
    """arXiv 2501.08313, table 1: l layers, d model dimension, h heads, n tokens a sequence, d_ff = 4 d.

    Its models have a gate of the head's rank (2 d^2 / h) and its FLOPs follow from chunks of the head's size.
    A last term of its brackets, 5 / (18 d), is the same of all three and no matrix product: we count none.
    """
    l, n = 16, CONTEXT  # noqa: E741
    shape = Shape(d, l, h, 4 * d)
    model = some_architecture("relu2", mixers=MIXERS[name], linear_gate="head_size", linear_chunk=d // h)
    parameters, more = {
        "softmax": (12 * l * d**2, Fraction(n, 6 * d)),
        "lightning": (12 * l * d**2 + 2 * l * d**2 // h, Fraction(1, 2 * h)),
        "hybrid": (12 * l * d**2 + 7 * l * d**2 // (4 * h), Fraction(n, 48 * d) + Fraction(7, 16 * h)),
    }[name]
    assert hidden_parameters(shape, model) == parameters
    ours = count(shape, model, VOCAB, n).exact_flops_per_token - 6 * VOCAB * d  # theirs have no output matrix
    assert ours == 72 * l * d**2 * (1 + more)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 128, 1000, 8191])
def test_chunks_cover_a_sequence_with_less_than_a_token_a_chunk_to_spare(length: int) -> None:
    chunks, chunk = some_architecture(linear_chunk=64).linear_chunks(length)
    assert chunk <= 64 and 0 <= chunks * chunk - length < chunks
    assert chunks == -(-length // 64)
