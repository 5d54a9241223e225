"""Counts against published models and by hand; tests/train holds them against torch."""

from __future__ import annotations

import pytest

from sweepctl.spec.accounting import count
from sweepctl.spec.compose import compose_study
from sweepctl.spec.model import Shape
from tests.models import some_architecture


@pytest.mark.parametrize(
    ("name", "shape", "vocab_size", "context", "published"),
    [
        ("gpt2", Shape(768, 12, 12, 3072), 50257, 1024, 124_439_808),
        ("llama3", Shape(4096, 32, 32, 14336), 128256, 8192, 8_030_261_248),
        ("qwen3", Shape(4096, 36, 32, 12288), 151936, 32768, 8_190_735_360),
    ],
)
def test_published_models_have_their_published_size(
    name: str, shape: Shape, vocab_size: int, context: int, published: int
) -> None:
    model = compose_study([f"model={name}"]).model
    assert count(shape, model, vocab_size, context).total == published


def test_shared_keys_and_learned_positions_are_counted() -> None:
    shape, d = Shape(16, 2, 4, 64), 16
    plain, shared, learned = (
        count(shape, some_architecture(activation="relu2", **changes), vocab_size=100, context=32)
        for changes in ({}, {"queries_per_kv": 4}, {"positions": "learned"})
    )
    saved = 2 * (2 * d * d - 2 * d * 4)
    assert shared.non_embedding == plain.non_embedding - saved
    assert shared.decode_flops_per_token == plain.decode_flops_per_token - 2 * saved
    assert (
        plain.decode_flops_per_token == plain.forward_flops_per_token == 2 * plain.with_head + 2 * 4 * 32 * d
    )
    assert (learned.total, learned.with_head) == (plain.total + 32 * d, plain.with_head)
    assert learned.exact_flops_per_token == plain.exact_flops_per_token
