"""Held-out text that is in the training split too: windows of the one that occur anywhere in the other.

Every window of the training split, at every offset, is fingerprinted by a polynomial over its tokens modulo
2^64 (Karp and Rabin 1987), from prefix sums; two windows that differ agree by chance once in about 2^60.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweepctl.data.order import U64, mix
from sweepctl.data.shards import CorpusIndex, open_shard

CHUNK = 1 << 20
"""Tokens looked at at once."""
MOST = 1 << 22
"""Windows of one held-out set that are looked for; of more, an evenly spaced sample."""
_BASE = 0x9E3779B97F4A7C15
_FILTER_BITS = 24

Progress = Callable[[int], None]
"""Takes how many more training tokens were read."""


@dataclass(frozen=True, slots=True)
class Leak:
    """How much of a held-out set lies in the training split too."""

    split: str
    """The held-out set."""
    window: int
    """Tokens of a window."""
    windows: int
    """How many windows were looked for."""
    leaked: int
    """How many of them lie somewhere in the training split."""

    @property
    def share(self) -> float:
        return self.leaked / self.windows if self.windows else 0.0


def leaks(
    folder: Path, index: CorpusIndex, window: int, progress: Progress = lambda tokens: None
) -> list[Leak]:
    """How much of each held-out set lies in the training split, in one pass over it.

    Memory: about 24 bytes a held-out window and 100 MB.

    Raises:
        DamagedFile: a shard is missing or has another size.
    """
    prints = _Fingerprints(index.vocab_size, window)
    wanted = {name: _held_out(folder, index, name, prints) for name in index.held_out}
    every = np.unique(np.concatenate([*wanted.values(), np.empty(0, dtype=np.uint64)]))
    leaked = np.zeros(len(every), dtype=bool)
    maybe = np.zeros(1 << _FILTER_BITS, dtype=bool)
    maybe[_top(every)] = True
    for shard in index.splits["train"].shards if len(every) else ():
        tokens = open_shard(folder, shard, index.dtype)
        for first in range(0, len(tokens), CHUNK):
            piece = tokens[first : first + CHUNK + window - 1]
            if len(piece) >= window:
                trained = prints.all(piece)
                trained = trained[maybe[_top(trained)]]
                at = np.minimum(np.searchsorted(every, trained), len(every) - 1)
                leaked[at[every[at] == trained]] = True
            progress(min(CHUNK, len(tokens) - first))
    return [
        Leak(name, window, len(windows), int(np.isin(windows, every[leaked]).sum()))
        for name, windows in wanted.items()
    ]


def _held_out(folder: Path, index: CorpusIndex, split: str, prints: _Fingerprints) -> U64:
    """Fingerprints of windows that lie end to end, as a held-out loss takes them."""
    shards = [open_shard(folder, shard, index.dtype) for shard in index.splits[split].shards]
    length = prints.window
    stride = max(1, -(-sum(len(tokens) // length for tokens in shards) // MOST))
    parts = [np.empty(0, dtype=np.uint64)]
    for tokens in shards:
        rows = tokens[: len(tokens) // length * length].reshape(-1, length)[::stride]
        per_chunk = max(1, CHUNK // length)
        parts += [prints.rows(rows[i : i + per_chunk]) for i in range(0, len(rows), per_chunk)]
    return np.concatenate(parts)


class _Fingerprints:
    """Of windows of one length: the sum of f(token i) base^i, f a fixed random function."""

    def __init__(self, vocab_size: int, window: int) -> None:
        self.window = window
        self._value = mix(np.arange(vocab_size, dtype=np.uint64))
        longest = CHUNK + window
        self._powers = _powers(_BASE, longest)
        self._inverses = _powers(pow(_BASE, -1, 1 << 64), longest)

    def rows(self, rows: NDArray[Any]) -> U64:
        """Of each row [n, window]."""
        sums: U64 = (self._of(rows) * self._powers[: self.window]).sum(axis=1, dtype=np.uint64)
        return sums

    def all(self, tokens: NDArray[Any]) -> U64:
        """Of the window at every offset: [len(tokens) - window + 1]."""
        sums = np.zeros(len(tokens) + 1, dtype=np.uint64)
        np.cumsum(self._of(tokens) * self._powers[: len(tokens)], out=sums[1:])
        shifted = sums[self.window :] - sums[: -self.window]
        prints: U64 = shifted * self._inverses[: len(shifted)]
        return prints

    def _of(self, tokens: NDArray[Any]) -> U64:
        """A token outside the vocabulary, which another check finds, counts as the last one inside."""
        values: U64 = self._value[np.minimum(tokens, len(self._value) - 1)]
        return values


def _powers(base: int, count: int) -> U64:
    """base^0 ... base^(count - 1) modulo 2^64."""
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _top(prints: U64) -> NDArray[np.int64]:
    return (prints >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)
