"""How many rows of logits are there at a time on a GPU, where the vocabulary is large."""

from __future__ import annotations

CHUNK_BYTES = 2**30
"""The most that a chunk's logits may take in fp32."""
WORTH_BYTES = 4 * 2**30
"""Logits that take no more than this in fp32 stay whole: every chunk reads and writes the head's gradient."""


def chunk_rows(rows: int, vocab_size: int) -> int | None:
    """How many of so many rows of logits are to be there at a time on a GPU, all chunks alike; None for the
    plain loss."""
    size = 4 * vocab_size * rows
    if size <= WORTH_BYTES:
        return None
    return next(rows // chunks for chunks in range(-(-size // CHUNK_BYTES), rows + 1) if rows % chunks == 0)
