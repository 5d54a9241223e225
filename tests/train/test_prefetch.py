"""Batches that are read ahead are those that are asked for, whatever the reading does."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sweepctl.errors import DamagedFile
from sweepctl.plan.expand import expand
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.train.batches import Batches
from sweepctl.train.prefetch import AHEAD, Prefetched
from tests.conftest import tiny

CPU = torch.device("cpu")


def numbered(step: int) -> tuple[Tensor, Tensor]:
    return torch.tensor([step]), torch.tensor([-step])


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_they_are_the_corpuss_in_its_order_from_any_step(corpus_folder: Path, facts: CorpusFacts) -> None:
    """Also while the same corpus is read elsewhere, in another order."""
    batches = Batches(corpus_folder, expand(tiny(), "all", facts).point(0))
    plain = Batches(corpus_folder, expand(tiny(), "all", facts).point(0))
    ahead = Prefetched(batches.batch, CPU)
    far = 3 * 4096  # another chunk of the order
    for step in (0, 1, 2, 3, far, far + 1, 1, 2, 2, 9):
        batches.batch(2 * far - step)
        for ours, theirs in zip(ahead.take(step), plain.batch(step), strict=True):
            assert torch.equal(ours, theirs)


def test_it_reads_on_while_nobody_asks() -> None:
    read: list[int] = []
    enough = threading.Event()

    def reading(step: int) -> tuple[Tensor, Tensor]:
        read.append(step)
        if step == 5 + AHEAD:
            enough.set()
        return numbered(step)

    ahead = Prefetched(reading, CPU)
    assert int(ahead.take(5)[0]) == 5
    assert enough.wait(60) and read == list(range(5, 6 + AHEAD))


def test_what_reading_raises_is_raised_at_its_step() -> None:
    def reading(step: int) -> tuple[Tensor, Tensor]:
        if step == 2:
            raise DamagedFile("shard 2 is gone.")
        return numbered(step)

    ahead = Prefetched(reading, CPU)
    assert [int(ahead.take(step)[0]) for step in (0, 1)] == [0, 1]
    with pytest.raises(DamagedFile, match="shard 2 is gone"):
        ahead.take(2)
    assert int(ahead.take(3)[0]) == 3


def test_its_thread_ends_with_it() -> None:
    before = threads()
    ahead = Prefetched(numbered, CPU)
    ahead.take(0)
    [own] = [thread for thread in threads() if thread not in before]
    del ahead
    gc.collect()
    own.join(60)
    assert not own.is_alive()
