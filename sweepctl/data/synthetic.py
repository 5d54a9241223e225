"""A seeded language: endless text whose statistics do not depend on any library's random stream.

Words follow Zipf's law. The next word is one of 64 successors of the last one, two or three words, found
by hashing the context, so there is structure at several ranges and nothing is stored. The language
depends on the seed, a sample on its stream: held-out text is another sample of the same language.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweepctl.data.order import U64, mix
from sweepctl.spec.hashing import key

WORDS = 20_000
SUCCESSORS = 64
_ZIPF, _SUCCESSOR_DECAY = 1.1, 1.5
_ORDER_SHARES = (0.55, 0.30, 0.15)
_LETTERS = np.frombuffer(b"eeeeeetttttaaaaoooiiinnnssshhhrrrdddlllcuumwfgypbvk", dtype=np.uint8)


@dataclass(frozen=True)
class Language:
    """The language of a seed."""

    seed: int
    """All that it depends on."""

    def words(self) -> list[bytes]:
        """The vocabulary, most frequent first; frequent words are short."""
        ranks = np.arange(WORDS, dtype=np.uint64)
        draws = mix(ranks ^ np.uint64(key(self.seed, "length")))
        lengths = 2 + np.minimum(9, (np.log2(ranks + 2) * 0.45 + _share(draws) * 3).astype(int))
        letters = np.arange(12, dtype=np.uint64)[None, :] + ranks[:, None] * np.uint64(16)
        picks = mix(letters ^ np.uint64(key(self.seed, "letters"))) % np.uint64(len(_LETTERS))
        spelled = _LETTERS[picks.astype(np.int64)]
        return [spelled[i, : lengths[i]].tobytes() for i in range(WORDS)]

    def documents(self, stream: str, count: int, document_bytes: int) -> list[bytes]:
        """`count` independent documents of exactly `document_bytes` bytes."""
        words = self.words()
        lengths = np.array([len(word) + 1 for word in words])
        steps = 1 + document_bytes // int(lengths.min())
        ids = np.empty((steps, count), dtype=np.int64)
        written = np.zeros(count, dtype=np.int64)
        last = self._first_words(stream, count)
        used = 0
        while used < steps and written.min() <= document_bytes:
            ids[used] = self._next(stream, used, last)
            written += lengths[ids[used]]
            last = np.vstack((last[1:], ids[used : used + 1].astype(np.uint64)))
            used += 1
        return [b" ".join([words[i] for i in ids[:used, lane]])[:document_bytes] for lane in range(count)]

    def _first_words(self, stream: str, count: int) -> U64:
        lanes = np.arange(3 * count, dtype=np.uint64)
        return (mix(lanes ^ np.uint64(key(self.seed, stream, "first"))) % np.uint64(WORDS)).reshape(3, count)

    def _next(self, stream: str, step: int, last: U64) -> NDArray[np.int64]:
        """The next word of every lane, from its last three (`last`, [3, lanes], newest at the end)."""
        lanes = np.arange(last.shape[1], dtype=np.uint64)
        draw = np.uint64(key(self.seed, stream, step))
        order = np.searchsorted(np.cumsum(_ORDER_SHARES)[:-1], _share(mix(lanes ^ draw))) + 1
        context = np.full(last.shape[1], key(self.seed, "context"), dtype=np.uint64)
        for back in (1, 2, 3):
            longer = mix(context ^ last[-back] ^ np.uint64(back << 40))
            context = np.where(order >= back, longer, context)
        rank = np.searchsorted(_SUCCESSOR_CDF, _share(mix(lanes ^ draw ^ np.uint64(1 << 63))))
        return np.searchsorted(_WORD_CDF, _share(mix(context + rank.astype(np.uint64)))).astype(np.int64)


def _share(words: U64) -> NDArray[np.float64]:
    """64-bit words as numbers in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) / 2.0**53


def _cdf(size: int, exponent: float) -> NDArray[np.float64]:
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    return np.asarray(np.cumsum(weights)[:-1] / weights.sum())


_WORD_CDF = _cdf(WORDS, _ZIPF)
_SUCCESSOR_CDF = _cdf(SUCCESSORS, _SUCCESSOR_DECAY)
