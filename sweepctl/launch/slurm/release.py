"""Branches start when their checkpoint is durable: who trains a trunk releases the tasks that were held."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from sweepctl.errors import RequestError, StorageError
from sweepctl.launch.slurm import commands
from sweepctl.launch.slurm.commands import SlurmError
from sweepctl.launch.slurm.records import Records
from sweepctl.store.job import JobFolder
from sweepctl.store.workspace import Workspace

LAST_S = 60.0
"""How long a task that ends tries to tell a controller that does not answer."""


class Releaser:
    """Calls scontrol from a thread of its own, again and again while the controller or the file system is
    away: the trunk trains on meanwhile. Releasing twice is harmless."""

    def __init__(self, workspace: Workspace, cluster: str, say: Callable[[str], None]) -> None:
        self._workspace, self._cluster, self._say = workspace, cluster, say
        self._done: set[str] = set()
        self._work: queue.SimpleQueue[tuple[str, JobFolder, int | None] | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def reached(self, trunk: JobFolder, step: int) -> None:
        """A checkpoint of the trunk is durable: release the branches that any sweep wants from it."""
        self._ask("release", trunk, step)

    def diverged(self, trunk: JobFolder) -> None:
        """The trunk has diverged: what was held for branches behind that has nothing to do."""
        self._ask("cancel", trunk, None)

    def close(self) -> None:
        """Finish what is under way."""
        self._ending.set()
        self._work.put(None)
        self._thread.join(LAST_S)

    def _ask(self, verb: str, trunk: JobFolder, step: int | None) -> None:
        self._work.put((verb, trunk, step))

    def _run(self) -> None:
        pause = 1.0
        work = self._work.get()
        while work is not None:
            try:
                self._serve(*work)
            except (SlurmError, StorageError, OSError) as error:
                self._say(str(error))
                if not isinstance(error, SlurmError) or error.no_answer:
                    threading.Event().wait(1.0) if self._ending.is_set() else self._ending.wait(pause)
                    pause = min(30.0, 2 * pause)
                    continue
            pause = 1.0
            work = self._work.get()

    def _serve(self, verb: str, trunk: JobFolder, step: int | None) -> None:
        """Touch the tasks that are held for the trunk's branches with a cut up to `step`, each once. Before
        the others are cancelled, those are released that a trunk reached before it diverged."""
        if verb == "cancel":
            result = trunk.result()
            self._serve("release", trunk, (result.step if result else 0) - 1)
        branches: dict[str, set[str]] = {}
        for wish in trunk.wishes():
            if step is None or wish.step <= step:
                branches.setdefault(wish.sweep, set()).add(wish.branch)
        for sweep, wanted in branches.items():
            try:
                records = Records(self._workspace.sweep(sweep))
            except RequestError:  # a wish may say anything
                continue
            tasks = [task for task in records.held_tasks(wanted, self._cluster) if task not in self._done]
            if tasks:
                self._say(f"{verb} {len(tasks)} of {sweep}: {' '.join(tasks[:8])}")
                self._do(verb, tasks, records.names())
                self._done |= set(tasks)

    @staticmethod
    def _do(verb: str, tasks: list[str], names: dict[str, str]) -> None:
        """Once the queue has said that they are ours and held: ids are given out anew after a reset."""
        live = commands.squeue({task.partition("_")[0] for task in tasks}, names)
        held = [task for task in tasks if task in live and live[task].held]
        if held and verb == "release":
            commands.release(held)
        elif held:
            commands.scancel(held)
