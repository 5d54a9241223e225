"""Batch t of a point is tokens [t B, (t + 1) B) of one seeded order.

The order is of windows of `context` tokens, so every batch size sees the same sequences in the same order,
and there is no loader state to save: the position is the step.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sweepctl.data.order import windows
from sweepctl.data.shards import TokenWindows, read_index, verify
from sweepctl.errors import RequestError
from sweepctl.spec.hashing import key
from sweepctl.spec.science import Point

PIECE_TOKENS = 8192
"""About the tokens of a held-out piece."""
_AHEAD = 4096
"""Rows whose places in the order are computed at once."""


class Batches:
    """Training batches and held-out sets of one corpus."""

    def __init__(self, folder: Path, point: Point) -> None:
        index = read_index(folder)
        if index.hash != point.corpus.hash:
            raise RequestError(
                f"{folder} holds data {index.hash[:12]}, the plan was made on {point.corpus.hash[:12]}; "
                "prepare the data the plan was made on, or plan again."
            )
        self.index, self.rows, self.context = index, point.batch.rows, point.batch.context
        self._train = TokenWindows(folder, index, "train", self.context)
        self._held_out = {name: TokenWindows(folder, index, name, self.context) for name in index.held_out}
        verify(folder, index)
        self._seed = key(point.seed.data, "order")
        self._chunk_steps = max(1, _AHEAD // self.rows)
        self._chunk: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def batch(self, step: int, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        """Inputs and targets of an update, each [rows, context] int64; of `parts` equal ones, this part."""
        number, within = divmod(step, self._chunk_steps)
        chunk = self._chunk  # another thread may put another one there
        if chunk[0] != number:
            first, count = number * self._chunk_steps * self.rows, self._chunk_steps * self.rows
            chunk = self._chunk = (number, windows(first, count, self._train.size, self._seed))
        own = self.rows // parts
        first = within * self.rows + part * own
        return _split(self._train.read(chunk[1][first : first + own]))

    @property
    def piece_rows(self) -> int:
        """Rows of a whole piece of a held-out set."""
        return max(1, PIECE_TOKENS // self.context)

    def held_out(self, name: str, tokens: int, part: int = 0, parts: int = 1) -> list[tuple[Tensor, Tensor]]:
        """A fixed sample of a held-out set in pieces of at most `piece_rows` rows: the first `tokens` tokens
        of an order that depends on the set alone (0 for all of it). Every `parts`-th piece, from this part
        on."""
        source = self._held_out[name]
        wanted = source.size if tokens == 0 else max(1, min(source.size, tokens // self.context))
        places = windows(0, source.size, source.size, key("held out"))[:wanted]
        piece = self.piece_rows
        starts = range(0, wanted, piece)[part::parts]
        return [_split(source.read(np.sort(places[i : i + piece]))) for i in starts]

    def bytes_per_token(self, name: str) -> float | None:
        """Text bytes a token stands for in a held-out set, None where the corpus does not say."""
        split = self.index.splits[name]
        return split.bytes / split.tokens if split.bytes else None


def _split(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    tokens = torch.from_numpy(rows)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
