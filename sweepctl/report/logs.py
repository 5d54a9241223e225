"""The story of one job in words: a line an attempt, a line a row of metrics, and how it ended."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from sweepctl.launch.logs import PROCESS_BYTES, Story, Tail, follow, log_of, read_story, seconds
from sweepctl.report.console import count, duration, place
from sweepctl.store import metrics
from sweepctl.store.attempts import Attempt
from sweepctl.store.board import Board, Entry

ERROR_LINES = 12
HEADING = f"{'step':>8}  {'tokens':>7}  {'train loss':>10}  {'lr':>9}  {'tokens/s':>8}"


def show_story(out: Console, story: Story) -> None:
    """Older attempts in a line each, the chosen one in full."""
    _show_job(out, story)
    if story.chosen is not None:
        _print(out, HEADING)
        for row in story.rows:
            _print(out, row_line(row))
        _show_end(out, story.chosen)


def show_process(out: Console, story: Story) -> None:
    """The last of what the chosen attempt's process wrote to its log."""
    _show_job(out, story)
    if story.chosen is not None:
        path = log_of(story.chosen)
        told = Tail(path, PROCESS_BYTES).lines(all_of_it=True)
        if path is None:
            _print(out, "This attempt named no log.")
        elif not told:
            _print(out, f"{place(path)} is {'empty' if path.exists() else 'not there'}.")
        for line in told:
            _print(out, line)


def follow_job(out: Console, board: Board, entry: Entry, number: int | None, process: bool) -> None:
    """Show the job as it goes on, until it is over."""
    story = read_story(board, entry, number)
    _show_job(out, story, header_too=False)
    for event in follow(board, entry, number, process):
        if event.attempt is None:
            continue
        if event.what == "attempt":
            _print(out, header(event.attempt), "bold")
            if not process:
                _print(out, HEADING)
        elif event.what == "lines":
            rows = metrics.rows(event.lines)
            for line in event.lines if process else map(row_line, rows):
                _print(out, line)
        elif event.what == "ended":
            _show_end(out, event.attempt)


def header(attempt: Attempt) -> str:
    """Who tried it, where, since when, and how that went."""
    record = attempt.record
    told = [f"attempt {attempt.number}", str(record.get("launcher") or "unknown launcher")]
    told.append(f"on {record.get('host', 'an unknown host')}")
    if record.get("scheduler_id"):
        told[-1] += f" as {record['scheduler_id']}"
    if record.get("started"):
        told.append(time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(record["started"]))))
    took = seconds(attempt)
    if took is not None:
        told.append(duration(took))
    return ", ".join((*told, ended(attempt)))


def ended(attempt: Attempt) -> str:
    """Why it ended, or that it has not."""
    if attempt.why is not None:
        return attempt.why.words
    return "running" if attempt.alive() else "its process is gone"


def row_line(row: dict[str, Any]) -> str:
    """One row: what training measured, or the losses on the held-out sets."""
    line = f"{row['step']:>8}  {count(row.get('tokens', 0)):>7}"
    if "loss_nats" in row:
        losses = "  ".join(f"{name} {loss:.4f}" for name, loss in row["loss_nats"].items())
        return f"{line}  held out:   {losses or 'not finite'}"
    line += f"  {_number(row, 'train_loss_nats', '.4f'):>10}  {_number(row, 'lr', '.3e'):>9}"
    return f"{line}  {count(row['tokens_per_s']) if row.get('tokens_per_s') else '':>8}".rstrip()


def story_json(story: Story) -> dict[str, Any]:
    """The attempts with their records; metrics rows of each, or of the chosen one alone."""
    return {
        "id": story.entry.job.id,
        "name": story.entry.name,
        "kind": story.entry.job.kind,
        "state": story.state.state,
        "step": story.state.step,
        "end_step": story.entry.job.end,
        "waits": story.waits or None,
        "attempts": [
            {
                "attempt": one.number,
                "seconds": seconds(one),
                "alive": one.alive(),
                "record": one.record,
                "metrics": metrics.read(one.metrics),
            }
            for one in story.attempts
        ],
    }


def _show_job(out: Console, story: Story, header_too: bool = True) -> None:
    entry, state = story.entry, story.state
    told = f"{entry.job.id}  {entry.name}: {state.state}, step {state.step} of {entry.job.end}"
    _print(out, told)
    if story.waits:
        _print(out, f"Not started: {story.waits}.")
    for attempt in story.attempts:
        if attempt is not story.chosen:
            _print(out, header(attempt), "dim")
        elif header_too:
            _print(out, header(attempt), "bold")


def _show_end(out: Console, attempt: Attempt) -> None:
    """How it ended, with the last lines of its error."""
    error = str(attempt.record.get("error") or "").strip().splitlines()
    failed = attempt.why is not None and attempt.why.has_retries
    rate = attempt.record.get("tokens_per_s")
    told = f"{ended(attempt)}"
    if attempt.record.get("trained_tokens"):
        told += f" after {count(attempt.record['trained_tokens'])} tokens"
        told += f" at {count(rate)} a second" if rate else ""
    _print(out, told, "red" if failed else "")
    for line in error[-ERROR_LINES:]:
        _print(out, f"  {line}")


def _number(row: dict[str, Any], key: str, form: str) -> str:
    return format(row[key], form) if isinstance(row.get(key), (int, float)) else ""


def _print(out: Console, line: str, style: str = "") -> None:
    out.print(line, style=style or None, markup=False, emoji=False, soft_wrap=True)
