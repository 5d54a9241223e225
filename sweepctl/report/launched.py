"""What a launch did, or would do, by whichever launcher."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from sweepctl.launch.launcher import LaunchRequest
from sweepctl.launch.outcome import Outcome, Rehearsal, Submitted, ToSubmit, ToTrain, Trained
from sweepctl.report.launch_view import launch_json, show_outcome, show_todo
from sweepctl.report.submitted import scripts_json, show_scripts, show_submitted, submitted_json


def show_launched(out: Console, request: LaunchRequest, outcome: Outcome, stays: bool) -> None:
    """How it ended, or what was submitted; `stays` where the command waits for the end."""
    match outcome:
        case Trained():
            show_outcome(out, request.sweep_jobs, request.held_stages, outcome)
        case Submitted():
            show_submitted(out, request.sweep_jobs, request.held_stages, outcome, stays)


def launched_json(request: LaunchRequest, outcome: Outcome) -> dict[str, Any]:
    """The same facts."""
    match outcome:
        case Trained():
            return launch_json(request.sweep_jobs, request.held_stages, outcome)
        case Submitted():
            return submitted_json(request.sweep_jobs, request.held_stages, outcome)


def show_rehearsal(out: Console, request: LaunchRequest, rehearsal: Rehearsal) -> None:
    """The jobs that would be trained, or the scripts that would be submitted."""
    match rehearsal:
        case ToTrain():
            show_todo(out, request.sweep_jobs, request.held_stages)
        case ToSubmit():
            show_scripts(out, request.sweep_jobs, rehearsal)


def rehearsal_json(request: LaunchRequest, rehearsal: Rehearsal) -> dict[str, Any]:
    """The same facts."""
    match rehearsal:
        case ToTrain():
            return launch_json(request.sweep_jobs, request.held_stages)
        case ToSubmit():
            return scripts_json(rehearsal)
