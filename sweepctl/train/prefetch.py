"""Batches read ahead by a thread, so that a GPU does not wait for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
"""Inputs and targets."""
AHEAD = 2
"""Batches that are ready, or being read, while one is trained on."""


class Prefetched:
    """What `read` gives for one step after the other, in pinned memory where a GPU will copy it.

    Pinned tensors are torch's own, new for every batch: its allocator hands their memory out again only when
    the copies out of it are done. The thread ends with this object.
    """

    def __init__(self, read: Callable[[int], Pair], device: torch.device) -> None:
        pins = device.type == "cuda"
        self._read: Callable[[int], Pair] = (lambda step: _pinned(read(step))) if pins else read
        begin = partial(torch.cuda.set_device, device) if pins else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=begin)
        self._begun: deque[tuple[int, Future[Pair]]] = deque()

    def take(self, step: int) -> Pair:
        """The batch of a step, whichever was taken before; what its reading raised is raised here."""
        if not self._begun or self._begun[0][0] != step:
            for _, future in self._begun:
                future.cancel()
            self._begun.clear()
        while len(self._begun) <= AHEAD:
            following = step + len(self._begun)
            self._begun.append((following, self._thread.submit(self._read, following)))
        return self._begun.popleft()[1].result()


def _pinned(pair: Pair) -> Pair:
    """In pinned memory, or as it is where the system gives no more of that: a copy is then waited for."""
    try:
        return pair[0].pin_memory(), pair[1].pin_memory()
    except RuntimeError:
        return pair
