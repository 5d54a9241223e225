"""What a launcher is: the one interface through which the commands reach machines.

The `kind` in a file of `launchers/` names a module of `launch.backends`, which is imported only where it is
asked for. What a launcher has to remember of a sweep lies in a folder of that name in the sweep's own. Where
there is none it is not asked about the sweep.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from sweepctl.errors import InvalidValue, SweepctlError
from sweepctl.launch import backends
from sweepctl.launch.defaults import build_settings
from sweepctl.launch.tasks import Task
from sweepctl.spec.execution import Execution
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.store.workspace import Sweep, Workspace

if TYPE_CHECKING:
    from sweepctl.launch.doctor import Finding, Say
    from sweepctl.launch.local import Watcher
    from sweepctl.launch.outcome import Outcome, Rehearsal
    from sweepctl.launch.retry import Retry

WAIT_S = 5.0
"""Between two looks at what is left."""
QUEUE_LOOKS = 6
"""How many of them one answer of a queue is good for."""


class SchedulerError(SweepctlError):
    """A scheduler refused or did not answer; its own words."""

    @property
    def no_answer(self) -> bool:
        """Whether it may be otherwise in a moment, or even have worked."""
        return False


class Settings(Protocol):
    """What a file of `launchers/` says, as the launcher's own dataclass."""

    @property
    def execution(self) -> Execution: ...

    @property
    def price_per_device_hour(self) -> float | None: ...

    @property
    def gpu_memory(self) -> float | str | None: ...


SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What one launch is asked for."""

    sweep_jobs: SweepJobs
    """The jobs that may be trained now."""
    held_stages: list[str]
    """Stages that are held back until their prediction is written."""
    retry: Retry
    """Which jobs that came to an end are taken up again."""

    def begin(self) -> None:
        """Take back cancels, and set aside the results that are asked for anew."""
        self.sweep_jobs.sweep.uncancel()
        self.retry.apply()
        self.sweep_jobs.sweep.forget_finished()


class Launcher(ABC, Generic[SettingsT]):
    """One machine and how it is used. A subclass names its kind and its settings:

    class SlurmLauncher(Launcher[SlurmSettings], kind="slurm", settings=SlurmSettings)
    """

    kind: ClassVar[str]
    _settings_class: ClassVar[type[Any]]
    _classes: ClassVar[dict[str, type[Launcher[Any]]]] = {}

    def __init_subclass__(cls, kind: str, settings: type[Any]) -> None:
        cls.kind, cls._settings_class = kind, settings
        Launcher._classes[kind] = cls

    def __init__(self, settings: SettingsT) -> None:
        self.settings = settings

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Launcher[Any]:
        """The launcher with these settings.

        Raises:
            RequestError: a key or value is not valid.
        """
        return cls(build_settings(cls._settings_class, raw))

    @property
    def execution(self) -> Execution:
        """How jobs are run here."""
        return self.settings.execution

    def execution_of(self, rung: str) -> Execution:
        """How jobs of this rung are run."""
        return self.execution

    def devices_of(self, rung: str) -> int:
        """Devices that a job of this rung trains on at once."""
        return 1

    def most_devices(self) -> int:
        """Up to how many devices a job can be given here."""
        return 1

    @abstractmethod
    def launch(self, request: LaunchRequest, watcher: Watcher) -> Outcome:
        """Train or submit what the sweep lacks; who trains in the foreground tells the watcher.

        Raises:
            RequestError: the machine would not take these jobs.
        """

    @abstractmethod
    def rehearse(self, request: LaunchRequest) -> Rehearsal:
        """What a launch would do; nothing is done."""

    @abstractmethod
    def examine(self, workspace: Workspace, say: Say, job: bool, wait_min: float) -> Iterator[Finding]:
        """What usually goes wrong here, the cheap checks first. With `job` a short job may be sent, which
        waits for its turn for `wait_min` at most; `say` takes lines on what is waited for."""

    def wait(self, sweep_jobs: SweepJobs, progress: Callable[[int, int | None], None]) -> list[str]:
        """Look every few seconds until nothing of the sweep is left, or nothing that is left runs or is about
        to run; the jobs that are left then. `progress` is told how many are left, and how many tasks are in
        the queue: None while the scheduler does not answer, which is waited for.

        Raises:
            SchedulerError: it refuses to say.
        """
        tasks: int | None = None
        for look in itertools.count():
            # The queue first: a task that ends between the two looks has finished its jobs by the second.
            if look % QUEUE_LOOKS == 0 or tasks is None:
                tasks = self._at_work(sweep_jobs.sweep)
            left = [planned_job.job.id for planned_job in sweep_jobs.unfinished()]
            progress(len(left), tasks)
            if not left or tasks == 0:
                return left
            time.sleep(WAIT_S)
        raise AssertionError("unreachable")

    def _at_work(self, sweep: Sweep) -> int | None:
        """How many tasks of the sweep run or are about to; None where the scheduler does not answer."""
        try:
            tasks = [task for of_job in self.tasks(sweep).values() for task in of_job]
        except SchedulerError as error:
            if not error.no_answer:
                raise
            return None
        return sum(not task.held and (task.pending or task.alive) for task in tasks)

    # What is known of a sweep from its records, whatever the settings were that it was launched with

    @classmethod
    def tasks(cls, sweep: Sweep) -> Mapping[str, list[Task]]:
        """Job -> the tasks that are meant for it, where a scheduler has them.

        Raises:
            SchedulerError: it does not answer.
        """
        return {}

    @classmethod
    def ended_as(cls, tasks: Iterable[str]) -> Mapping[str, str]:
        """Task -> how it ended, in the scheduler's word, of those that it remembers."""
        return {}

    @classmethod
    def notes(cls, sweep: Sweep) -> list[str]:
        """Sentences that a status of the sweep should say."""
        return []

    @classmethod
    def stillborn_log(cls, sweep: Sweep, job: str) -> Path | None:
        """What a task printed that ended before it could begin this job, where nobody has begun it since."""
        return None

    @classmethod
    def cancel(cls, sweep: Sweep, jobs: set[str]) -> Mapping[str, str]:
        """Take back what waits for these jobs, which the sweep has marked as cancelled, or for none. Who
        trains one sees that by itself. Tasks that could not be taken back, and why.

        Raises:
            SchedulerError: it does not answer.
        """
        return {}


def kinds() -> list[str]:
    """The kinds of launchers that there are."""
    return sorted(module.name for module in pkgutil.iter_modules(backends.__path__))


def launcher_class(kind: str) -> type[Launcher[Any]]:
    """The launcher of a kind."""
    importlib.import_module(f"{backends.__name__}.{kind}")
    return Launcher._classes[kind]


def launchers_of(sweep: Sweep) -> list[type[Launcher[Any]]]:
    """The launchers that have left records of this sweep."""
    return [launcher_class(kind) for kind in kinds() if (sweep.folder / kind).is_dir()]


def read_launcher(name: str, raw: Mapping[str, Any]) -> Launcher[Any]:
    """The launcher that a file of `launchers/` describes.

    Raises:
        RequestError: there is no such kind, or a key or value is not valid.
    """
    kind = raw.get("kind")
    if kind not in kinds():
        raise InvalidValue("kind", kind, f"{' or '.join(kinds())} in launcher {name}")
    return launcher_class(kind).read(raw)
