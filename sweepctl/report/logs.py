"""One job in words: a line an attempt, a line a row of metrics, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sweepctl.launch.logs import PROCESS_BYTES, JobLog, Tail, follow, log_of, read_job_log, seconds
from sweepctl.report.console import count, duration, place
from sweepctl.store import metrics
from sweepctl.store.attempts import Attempt
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs

ERROR_LINES = 12
ROWS = 1000
"""Of metrics that are shown at once; --json has them all."""
NEWEST = 50
"""Of these, the last ones that are shown without gaps."""
HEADING = f"{'step':>8}  {'tokens':>7}  {'train loss':>10}  {'lr':>9}  {'tokens/s':>8}"


def show_job_log(out: Console, log: JobLog) -> None:
    """Older attempts in a line each, the chosen one in full."""
    _show_job(out, log)
    if log.chosen is not None:
        _print(out, HEADING)
        for line in _thinned(log.lines):
            _print(out, line)
        _show_end(out, log.chosen)


def show_process(out: Console, log: JobLog, stillborn: Path | None = None) -> None:
    """The last of what the chosen attempt's process wrote, or a later task that could not begin the job."""
    _show_job(out, log)
    if log.chosen is not None or stillborn is not None:
        path = stillborn or (log_of(log.chosen) if log.chosen else None)
        lines = Tail(path, PROCESS_BYTES).lines(all_of_it=True)
        if path is None:
            _print(out, "This attempt named no log.")
        elif not lines:
            _print(out, f"{place(path)} is {'empty' if path.exists() else 'not there'}.")
        for line in lines:
            _print(out, line)


def _thinned(lines: Sequence[str]) -> Iterator[str]:
    """Lines of metrics as they are shown: of many every so manieth, and the newest. Only those are parsed."""
    older = len(lines) - NEWEST if len(lines) > ROWS else 0
    every = -(-older // (ROWS - NEWEST)) or 1
    if every > 1:
        yield f"One row of {every}, then the last {NEWEST}; --json has all {len(lines)}."
    yield from map(row_line, metrics.rows([*lines[:older:every], *lines[older:]]))


def follow_job(
    out: Console, sweep_jobs: SweepJobs, planned_job: PlannedJob, number: int | None, process: bool
) -> None:
    """Show the job as it goes on, until it is over."""
    log = read_job_log(sweep_jobs, planned_job, number)
    _show_job(out, log, header_too=False)
    for event in follow(sweep_jobs, planned_job, number, process):
        if event.attempt is None:
            continue
        if event.what == "attempt":
            _print(out, header(event.attempt), "bold")
            if not process:
                _print(out, HEADING)
        elif event.what == "lines":
            for line in event.lines if process else _thinned(event.lines):
                _print(out, line)
        elif event.what == "ended":
            _show_end(out, event.attempt)


def header(attempt: Attempt) -> str:
    """Who tried it, where, since when, and how that went."""
    facts = attempt.facts
    parts = [f"attempt {attempt.number}", facts.launcher or "unknown launcher"]
    parts.append(f"on {facts.host or 'an unknown host'}")
    if facts.scheduler_id:
        parts[-1] += f" as {facts.scheduler_id}"
    if facts.started:
        parts.append(time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts.started)))
    took = seconds(attempt)
    if took is not None:
        parts.append(duration(took))
    return ", ".join((*parts, ended(attempt)))


def ended(attempt: Attempt) -> str:
    """Why it ended, or that it has not."""
    if attempt.facts.why is not None:
        return attempt.facts.why.words
    return "running" if attempt.alive() else "its process is gone"


def row_line(row: dict[str, Any]) -> str:
    """One row: what training measured, or the losses on the held-out sets."""
    line = f"{row['step']:>8}  {count(row.get('tokens', 0)):>7}"
    if "loss_nats" in row:
        losses = "  ".join(f"{name} {loss:.4f}" for name, loss in row["loss_nats"].items())
        return f"{line}  held out:   {losses or 'not finite'}"
    line += f"  {_number(row, 'train_loss_nats', '.4f'):>10}  {_number(row, 'lr', '.3e'):>9}"
    return f"{line}  {count(row['tokens_per_s']) if row.get('tokens_per_s') else '':>8}".rstrip()


def job_log_json(log: JobLog) -> dict[str, Any]:
    """The attempts with their records; metrics rows of each, or of the chosen one alone."""
    return {
        "id": log.planned_job.job.id,
        "name": log.planned_job.name,
        "kind": log.planned_job.job.kind,
        "state": log.state.state,
        "step": log.state.step,
        "end_step": log.planned_job.job.end,
        "waits": log.waits or None,
        "attempts": [
            {
                "attempt": attempt.number,
                "seconds": seconds(attempt),
                "alive": attempt.alive(),
                "record": attempt.record,
                "metrics": metrics.read(attempt.metrics),
            }
            for attempt in log.attempts
        ],
    }


def _show_job(out: Console, log: JobLog, header_too: bool = True) -> None:
    planned_job, state = log.planned_job, log.state
    progress = f"{state.state}, step {state.step} of {planned_job.job.end}"
    _print(out, f"{planned_job.job.id}  {planned_job.name}: {progress}")
    if log.waits:
        _print(out, f"Not started: {log.waits}.")
    for attempt in log.attempts:
        if attempt is not log.chosen:
            _print(out, header(attempt), "dim")
        elif header_too:
            _print(out, header(attempt), "bold")


def _show_end(out: Console, attempt: Attempt) -> None:
    """How it ended, with the last lines of its error."""
    facts = attempt.facts
    failed = facts.why is not None and facts.why.has_retries
    sentence = ended(attempt)
    if facts.trained_tokens:
        sentence += f" after {count(facts.trained_tokens)} tokens"
        sentence += f" at {count(facts.tokens_per_s)} a second" if facts.tokens_per_s else ""
    _print(out, sentence, "red" if failed else "")
    for line in (facts.error or "").strip().splitlines()[-ERROR_LINES:]:
        _print(out, f"  {line}")


def _number(row: dict[str, Any], key: str, form: str) -> str:
    return format(row[key], form) if isinstance(row.get(key), (int, float)) else ""


def _print(out: Console, line: str, style: str = "") -> None:
    out.print(line, style=style or None, soft_wrap=True)
