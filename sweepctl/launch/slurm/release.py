"""Branches start when their checkpoint is durable: who trains a trunk releases the tasks that were held."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from sweepctl.launch.slurm import commands
from sweepctl.launch.slurm.commands import SlurmError
from sweepctl.launch.slurm.records import Records
from sweepctl.store.job import JobFolder
from sweepctl.store.workspace import Workspace

LAST_S = 60.0
"""How long a task that ends tries to tell a controller that does not answer."""


class Releaser:
    """Calls scontrol from a thread of its own, again and again while the controller is away: the trunk trains
    on meanwhile. Releasing twice is harmless."""

    def __init__(self, workspace: Workspace, say: Callable[[str], None]) -> None:
        self._workspace, self._say = workspace, say
        self._done: set[str] = set()
        self._work: queue.SimpleQueue[tuple[str, list[str]] | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def reached(self, trunk: JobFolder, step: int) -> None:
        """A checkpoint of the trunk is durable: release the branches that any sweep wants from it."""
        for sweep, tasks in self._held(trunk, step).items():
            self._say(f"releasing {len(tasks)} of {sweep}: {' '.join(tasks[:8])}")
            self._work.put(("release", tasks))

    def diverged(self, trunk: JobFolder) -> None:
        """The trunk has diverged: what was held for branches behind that has nothing to do."""
        step = int((trunk.result() or {}).get("step", 0))
        before = {task for tasks in self._held(trunk, step - 1).values() for task in tasks}
        gone = {task for tasks in self._held(trunk, None).values() for task in tasks} - before
        if before:
            self._work.put(("release", sorted(before)))
        if gone:
            self._say(f"cancelling {len(gone)} that waited for it")
            self._work.put(("cancel", sorted(gone)))

    def close(self) -> None:
        """Finish what is under way."""
        self._ending.set()
        self._work.put(None)
        self._thread.join(LAST_S)

    def _held(self, trunk: JobFolder, step: int | None) -> dict[str, list[str]]:
        """Sweep -> tasks that are held for its branches with a cut up to `step`, each once."""
        branches: dict[str, set[str]] = {}
        for wish in trunk.wishes():
            if step is None or wish.step <= step:
                branches.setdefault(wish.sweep, set()).add(wish.branch)
        found = {}
        for sweep, wanted in branches.items():
            new = wanted - self._done
            if new and (tasks := Records(self._workspace.sweep(sweep)).held_tasks(new)):
                found[sweep] = tasks
                if step is not None:
                    self._done |= new
        return found

    def _run(self) -> None:
        pause = 1.0
        work = self._work.get()
        while work is not None:
            verb, tasks = work
            try:
                commands.release(tasks) if verb == "release" else commands.scancel(tasks, pending_only=True)
            except SlurmError as error:
                self._say(f"{error} Trying again.")
                self._ending.wait(pause) if not self._ending.is_set() else threading.Event().wait(1.0)
                pause = min(30.0, 2 * pause)
                continue
            pause = 1.0
            work = self._work.get()
