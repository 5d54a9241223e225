"""Which worker takes a job where workers share GPUs and rungs differ in how much of one they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from sweepctl.launch.workers import Worker


class Places:
    """The places of a pool, dealt out once: workers in order of number have the GPUs in turn.

    A job of a rung that has `per_gpu` jobs on a GPU takes `most` / `per_gpu` of its places, `most` being that
    of the rung with the most. Who finds too few keeps the emptiest GPU for itself, so that a large job does
    not wait for ever while small ones come and go.
    """

    def __init__(
        self, workers: Sequence[Worker], gpus: int, per_gpu: Callable[[str], int], most: int
    ) -> None:
        """`per_gpu` says it of a job; without GPUs any worker takes any job."""
        self._gpus, self._per_gpu, self._most = gpus, per_gpu, most
        self._kept: set[int] = set()
        self._size = -(-len(workers) // gpus) if gpus else len(workers)
        self._taken = dict.fromkeys(range(gpus), Fraction(0))
        for worker in workers:
            if gpus and worker.job is not None:
                self._taken[worker.number % gpus] += self._width(worker.job)

    def _width(self, job: str) -> Fraction:
        return min(Fraction(self._most, self._per_gpu(job)), Fraction(self._size))

    @property
    def left(self) -> bool:
        """Whether any GPU is not kept for somebody."""
        return not self._gpus or len(self._kept) < self._gpus

    def take(self, job: str, free: Sequence[Worker]) -> Worker | None:
        """The worker for a job, the first of the free ones on the emptiest GPU; None where it has to wait."""
        if not self._gpus:
            return free[0]
        open_gpus = sorted(self._taken.keys() - self._kept, key=lambda gpu: (self._taken[gpu], gpu))
        width = self._width(job)
        for gpu in open_gpus:
            here = [worker for worker in free if worker.number % self._gpus == gpu]
            if here and self._taken[gpu] + width <= self._size:
                self._taken[gpu] += width
                return here[0]
        self._kept.update(open_gpus[:1])
        return None
