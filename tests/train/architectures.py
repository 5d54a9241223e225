"""Architectures for tests: every pair of choices occurs, without every combination."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tests.models import some_architecture

CHOICES: dict[str, Sequence[Any]] = {
    "activation": ("swiglu", "relu2", "gelu", "relu"),
    "norm": ("rmsnorm", "layernorm"),
    "gains": (False, True, "scalar"),
    "tied": (False, True),
    "biases": (False, True),
    "positions": ("rope", "learned", "none"),
    "queries_per_kv": (1, 3),
    "qk_norm": (False, True),
}


def pairwise(choices: dict[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Combinations in which any two choices of different fields meet, the next always the one with most new
    meetings."""
    every = list(itertools.product(*choices.values()))
    left = {pair for row in every for pair in _pairs(row)}
    chosen = []
    while left:
        best = max(every, key=lambda row: len(left & _pairs(row)))
        left -= _pairs(best)
        chosen.append(dict(zip(choices, best, strict=True)))
    return chosen


def _pairs(row: tuple[Any, ...]) -> set[Any]:
    return set(itertools.combinations(enumerate(map(repr, row)), 2))


ARCHITECTURES = [some_architecture(**row) for row in pairwise(CHOICES)]
