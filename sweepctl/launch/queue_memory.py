"""What schedulers said a moment ago: who looks every few seconds does not ask a controller each time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sweepctl.launch.launcher import Launcher
from sweepctl.launch.tasks import Task
from sweepctl.store.workspace import Sweep

QUEUE_S = 30.0
"""How long what a queue said is good enough for who watches."""
_NOT_YET = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "COMPLETING")


class QueueMemory:
    """Asks for a queue where its last answer is older than `good_for_s`, and for a task's end once."""

    def __init__(self, good_for_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._good_for_s, self._clock = good_for_s, clock
        self._asked: dict[str, float] = {}
        self._tasks: dict[str, Mapping[str, list[Task]]] = {}
        self._ends: dict[str, str] = {}

    def tasks(self, launcher: type[Launcher[Any]], sweep: Sweep) -> Mapping[str, list[Task]]:
        """Job -> the tasks that are meant for it.

        Raises:
            SchedulerError: it is asked, and does not answer.
        """
        kind = launcher.kind
        if self._clock() - self._asked.get(kind, -math.inf) >= self._good_for_s:
            self._tasks[kind] = launcher.tasks(sweep)
            self._asked[kind] = self._clock()
        return self._tasks[kind]

    def ended_as(self, launcher: type[Launcher[Any]], tasks: Iterable[str]) -> Mapping[str, str]:
        """Task -> how it ended, of those that the scheduler remembers."""
        wanted = list(tasks)
        if new := [task for task in wanted if task not in self._ends]:
            said = launcher.ended_as(new)
            self._ends |= {task: word for task, word in said.items() if not word.startswith(_NOT_YET)}
        return {task: self._ends[task] for task in wanted if task in self._ends}
