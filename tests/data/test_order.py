from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepctl.data.order import mix, permute, windows
from sweepctl.data.synthetic import Language


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_the_order_is_a_permutation(size: int, seed: int) -> None:
    order = permute(np.arange(size, dtype=np.uint64), size, seed)
    assert sorted(order.tolist()) == list(range(size))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 500), st.integers(0, 2000), st.integers(1, 700), st.integers(0, 2**40))
def test_any_piece_of_the_order_is_the_same_piece(size: int, first: int, count: int, seed: int) -> None:
    whole = windows(0, first + count, size, seed)
    assert np.array_equal(windows(first, count, size, seed), whole[first:])


def test_every_pass_has_its_own_order_and_misses_nothing() -> None:
    first, second = windows(0, 100, 100, 7), windows(100, 100, 100, 7)
    assert sorted(first) == sorted(second) == list(range(100))
    assert not np.array_equal(first, second)


def test_streams_are_frozen() -> None:
    """Every version of numpy must give these: results would otherwise not be comparable."""
    assert mix(np.arange(3, dtype=np.uint64)).tolist() == [
        16294208416658607535,
        10451216379200822465,
        10905525725756348110,
    ]
    assert windows(0, 8, 1000, 0).tolist() == FROZEN_WINDOWS
    assert Language(0).documents("x", 1, 40)[0] == FROZEN_TEXT


FROZEN_WINDOWS = [721, 276, 887, 423, 92, 815, 76, 411]
FROZEN_TEXT = b"liyoa esinie tadu lotcimoo ohwaad uvha a"


def test_a_language_depends_on_its_seed_a_sample_on_its_stream() -> None:
    a = Language(0).documents("a", 2, 500)
    assert a == Language(0).documents("a", 2, 500) and a[0] != a[1]
    assert all(len(text) == 500 for text in a)
    assert a != Language(0).documents("b", 2, 500)
    words = set(Language(0).words())
    assert set(Language(0).documents("b", 1, 5000)[0].split(b" ")[:-1]) <= words
    same = sum(x == y for x, y in zip(Language(0).words(), Language(1).words(), strict=True))
    assert same < 0.05 * len(words)


def test_the_language_has_structure_beyond_its_words() -> None:
    """The next word is far more predictable from the last one than from its frequency alone."""
    text = Language(0).documents("long", 1, 400_000)[0].split(b" ")
    pairs: dict[bytes, set[bytes]] = {}
    for a, b in itertools.pairwise(text):
        pairs.setdefault(a, set()).add(b)
    common = max(set(text), key=text.count)
    assert text.count(common) > 500
    assert len(pairs[common]) < 0.5 * text.count(common)


@pytest.mark.parametrize("size", [1, 2])
def test_tiny_orders(size: int) -> None:
    assert sorted(windows(0, size, size, 0)) == list(range(size))
