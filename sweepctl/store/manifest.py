"""What a job is told: the whole contract between `launch` and a trainer.

Any trainer that reads this and keeps the store's promises can take the built-in one's place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweepctl.spec.build import build, plain
from sweepctl.spec.execution import Execution
from sweepctl.spec.science import JobScience, read_job
from sweepctl.store.facts import Dispatch
from sweepctl.store.job import JobFolder


@dataclass(frozen=True, slots=True)
class Manifest:
    """One job to run. Paths, `execution` and `dispatch` are how, not what."""

    job: str
    """Its id."""
    science: dict[str, Any]
    """The record that the id is a hash of."""
    trunk_science: dict[str, Any] | None
    """Its trunk's record, for a branch."""
    folder: str
    """The job's folder."""
    trunk_folder: str | None
    """Its trunk's folder, for a branch."""
    data: str
    """The folder of the corpus."""
    trunk_needed: dict[str, int] = field(default_factory=dict)
    """The cuts that branches of its launch start from, by branch."""
    execution: Execution = Execution()
    """How it is run."""
    dispatch: Dispatch = Dispatch()
    """Who gave the worker its place."""
    gone: tuple[str, ...] = ()
    """Tasks of the batch system that it has given up, whatever their heartbeats say."""
    final_state: bool = False
    """Whether the optimizer's state is kept with the final weights."""

    def record(self) -> dict[str, Any]:
        """The manifest as a worker is handed it."""
        fields: dict[str, Any] = plain(self)
        return fields

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Manifest:
        """The manifest that a worker was handed."""
        return build(cls, record)

    def job_science(self) -> JobScience:
        return read_job(self.science, self.trunk_science)

    def job_folder(self) -> JobFolder:
        return JobFolder(Path(self.folder), self.job)

    def was_given_up(self, owner: Dispatch) -> bool:
        """Whether an attempt's process has no place any more."""
        return owner.has_lost_its_place(self.dispatch, self.gone)

    def trunk(self) -> JobFolder | None:
        """The folder of the trunk that this branch forks from."""
        if self.trunk_folder is None:
            return None
        return JobFolder(Path(self.trunk_folder), str(self.science["trunk"]))
