"""A seeded order of windows that anyone can compute: no generator state, no library's stream.

numpy and torch do not promise the same random stream in every version, so both the order of the data and
the synthetic text draw from a counter-based hash of (seed, position).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sweepctl.spec.hashing import key

U64 = NDArray[np.uint64]

_ROUNDS = 4


def mix(values: U64) -> U64:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64-bit words."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)


def permute(positions: U64, size: int, seed: int) -> U64:
    """Where each position of range(size) goes under the seeded permutation.

    A Feistel network over the smallest even number of bits that holds `size`, walked until it lands
    inside (Black and Rogaway 2002, section 5), so no table of `size` entries is ever made.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    keys = [np.uint64(key(seed, "feistel", i)) for i in range(_ROUNDS)]
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    out = positions.astype(np.uint64)
    outside = np.ones(out.shape, dtype=bool)
    while outside.any():
        left, right = out[outside] >> shift, out[outside] & mask
        for round_key in keys:
            left, right = right, left ^ (mix(right ^ round_key) & mask)
        out[outside] = (left << shift) | right
        outside[outside] = out[outside] >= np.uint64(size)
    return out


def windows(first: int, count: int, size: int, seed: int) -> NDArray[np.int64]:
    """The windows at places first .. first + count of the endless order; each pass has its own permutation.

    Returns an int64 array of shape [count] with values below `size`.
    """
    places = np.arange(first, first + count, dtype=np.uint64)
    passes = places // np.uint64(size)
    out = np.empty(count, dtype=np.int64)
    for number in np.unique(passes):
        chosen = passes == number
        inside = places[chosen] % np.uint64(size)
        out[chosen] = permute(inside, size, key(seed, "pass", int(number))).astype(np.int64)
    return out
