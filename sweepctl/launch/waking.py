"""Which jobs are worth a look: those that were looked at in vain sleep until their time, or until woken."""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Callable, Iterable, Iterator


class Awake:
    """Jobs in the order of their urgency, of which many sleep: going through those that are awake costs
    nothing for the others."""

    def __init__(self, jobs: Iterable[str], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rank = {job: rank for rank, job in enumerate(jobs)}
        self._awake = [(rank, job) for job, rank in self._rank.items()]
        self._until: dict[str, float] = {}
        self._alarms: list[tuple[float, str]] = []

    def __iter__(self) -> Iterator[str]:
        """Those awake, the most urgent first; others may fall asleep or wake meanwhile."""
        self._ring()
        rank = -math.inf
        while True:
            place = bisect.bisect_right(self._awake, rank, key=lambda entry: entry[0])
            if place == len(self._awake):
                return
            rank, job = self._awake[place]
            yield job

    def put_first(self, job: str) -> None:
        """Add a job, more urgent than all others."""
        self._rank[job] = min(self._rank.values(), default=0) - 1
        bisect.insort(self._awake, (self._rank[job], job))

    def remove(self, job: str) -> None:
        """Forget a job."""
        self.sleep(job)
        self._until.pop(job, None)
        self._rank.pop(job, None)

    def sleep(self, job: str, until: float = math.inf) -> None:
        """Leave a job alone until then."""
        if job not in self._rank:
            return
        if job not in self._until:
            place = bisect.bisect_left(self._awake, (self._rank[job], job))
            del self._awake[place]
        self._until[job] = until
        if until < math.inf:
            heapq.heappush(self._alarms, (until, job))

    def wake(self, job: str) -> None:
        """Look at a job again."""
        if self._until.pop(job, None) is not None:
            bisect.insort(self._awake, (self._rank[job], job))

    def wake_all(self, but: Iterable[str] = ()) -> None:
        """Look at every job again, but these."""
        for job in [*self._until.keys() - set(but)]:
            self.wake(job)

    def _ring(self) -> None:
        while self._alarms and self._alarms[0][0] <= self._clock():
            until, job = heapq.heappop(self._alarms)
            if self._until.get(job) == until:
                self.wake(job)
