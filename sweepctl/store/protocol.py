"""What a launcher and a worker say to each other: one JSON object a line.

to the worker     {"run": <manifest>}, {"stop": <job>}
from the worker   {"event": "ready"}
                  {"event": "progress" or "checkpoint", "job", "step"}
                  {"event": "end", "job", "why", "message"}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sweepctl.store.ends import End
from sweepctl.store.manifest import Manifest

GPU_VARIABLE = "SWEEPCTL_GPU"
"""In a worker's environment: who has promised it a GPU, `allocation` or `machine`."""
WORKERS_VARIABLE = "SWEEPCTL_WORKERS"
"""In a worker's environment: how many of them share the cores that it may use."""


@dataclass(frozen=True, slots=True)
class RunJob:
    """Train this job, once the one in hand has ended."""

    manifest: Manifest
    """The job, and how it is run."""

    def line(self) -> str:
        return json.dumps({"run": self.manifest.record()})


@dataclass(frozen=True, slots=True)
class StopJob:
    """Save this job and give it up, or do not begin it."""

    job: str
    """Its id."""

    def line(self) -> str:
        return json.dumps({"stop": self.job})


def read_command(line: str) -> RunJob | StopJob:
    """The command that a worker is given."""
    command = json.loads(line)
    return RunJob(Manifest.read(command["run"])) if "run" in command else StopJob(command["stop"])


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has imported what it trains with, and listens."""

    def line(self) -> str:
        return json.dumps({"event": "ready"})


@dataclass(frozen=True, slots=True)
class Progress:
    """The job in hand lives, and is at this step."""

    job: str
    """Its id."""
    step: int
    """Updates that are done."""

    def line(self) -> str:
        return json.dumps({"event": "progress", "job": self.job, "step": self.step})


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint of this step is durable."""

    job: str
    """Its id."""
    step: int
    """Updates before it."""

    def line(self) -> str:
        return json.dumps({"event": "checkpoint", "job": self.job, "step": self.step})


@dataclass(frozen=True, slots=True)
class Ended:
    """The attempt is over, and the worker takes the next job."""

    job: str
    """Its id."""
    end: End
    """Why."""
    message: str
    """What people are to read of it."""

    def line(self) -> str:
        fields = {"event": "end", "job": self.job, "why": self.end.value, "message": self.message}
        return json.dumps(fields)


@dataclass(frozen=True, slots=True)
class Died:
    """The worker is gone. It cannot say so itself; whoever holds its pipe does."""

    code: int
    """Of its process, below 0 for a signal."""

    @property
    def reason(self) -> str:
        return f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"


Event = Ready | Progress | Saved | Ended
"""What a worker says."""


def read_event(line: str) -> Event | None:
    """What a line of a worker says; None where it is none of its own."""
    try:
        fields: dict[str, Any] = json.loads(line)
        match fields["event"]:
            case "ready":
                return Ready()
            case "progress":
                return Progress(fields["job"], int(fields["step"]))
            case "checkpoint":
                return Saved(fields["job"], int(fields["step"]))
            case "end":
                return Ended(fields["job"], End(fields["why"]), fields["message"])
    except (ValueError, KeyError, TypeError):
        pass
    return None
