"""A sweep's status as a screen and as JSON."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweepctl.launch.speed import Running
from sweepctl.launch.status import ORDER, KindStatus, RungStatus, SweepStatus, Wrong
from sweepctl.launch.tasks import Task
from sweepctl.report.console import count, duration, flops, table
from sweepctl.store.board import Entry
from sweepctl.store.ends import End
from sweepctl.store.state import JobState

RUNGS, RUNNING, DIVERGED, SILENT, FAILED = 12, 5, 4, 4, 10
"""How many of each one screen shows."""
TABLE_LINES = 5
"""Lines of a table besides its rows."""


def show_status(out: Console, found: SweepStatus) -> None:
    """Print the screen once, its lines whole."""
    out.print(screen(found), crop=False)


def watch_status(out: Console, look: Callable[[], SweepStatus], every_s: float) -> None:
    """Look again every so many seconds until everything is there: in place on a terminal, elsewhere one
    screen below the other."""
    found = look()
    if not out.is_terminal:
        show_status(out, found)
        while not found.complete:
            time.sleep(every_s)
            out.print()
            show_status(out, found := look())
        return
    with Live(screen(found, out.height), console=out, auto_refresh=False) as live:
        while not found.complete:
            time.sleep(every_s)
            live.update(screen(found := look(), out.height), refresh=True)


def screen(found: SweepStatus, height: int | None = None) -> Group:
    """Rungs, kinds, how far it is, what runs, what is wrong, and what to do about it. With a `height`, as
    many rungs as leave the rest a place, and long lines cut."""
    lines = _progress(found)
    lines += _some([one for one in found.running if not one.silent], RUNNING, _running)
    lines += _some(found.in_state("diverged"), DIVERGED, _diverged)
    lines += _some([one for one in found.wrong if one.what == "silent"], SILENT, _silent)
    failed = [one for one in found.wrong if one.what == "failed"]
    lines += _some(sorted(failed, key=lambda one: -one.waiting), FAILED, _failed)
    if found.waiting_stages:
        names = ", ".join(found.waiting_stages)
        told = f"Waiting for another stage's results: {names}. `sweepctl plan` again, as before, plans them."
        lines.append(Text(told))
    lines += [Text(note, "yellow") for note in found.notes]
    lines.append(Text(_next(found)))
    for line in lines:
        line.no_wrap, line.overflow = True, "ignore" if height is None else "ellipsis"
    room = RUNGS if height is None else height - len(lines) - len(found.kinds) - 2 * TABLE_LINES
    return Group(_rungs(found, max(3, min(RUNGS, room))), _kinds(found.kinds), *lines)


def _rungs(found: SweepStatus, most: int) -> Table:
    """One line a rung; where there are too many, those that are not complete, and the rest in one line."""
    rungs = found.rungs
    present = _present(row.states for row in rungs)
    chosen = rungs
    if len(rungs) > most:
        first = {id(row) for row in sorted(rungs, key=lambda row: row.complete)[: most - 1]}
        chosen = [row for row in rungs if id(row) in first]
        others = [row for row in rungs if id(row) not in first]
        rest = RungStatus("", f"{len(others)} more")
        for row in others:
            rest.states += row.states
            rest.flops, rest.flops_done = rest.flops + row.flops, rest.flops_done + row.flops_done
        chosen.append(rest)
    rows = [
        [
            row.stage,
            row.rung,
            *(str(row.states[state] or "") for state in present),
            _percent(row.flops_done, row.flops),
            flops(row.flops - row.flops_done) if row.flops > row.flops_done else "",
        ]
        for row in chosen
    ]
    return table(f"sweep {found.sweep}", ["stage", "rung", *present, "trained", "FLOPs left"], rows, left=2)


def _kinds(kinds: dict[str, KindStatus]) -> Table:
    """One line a kind; failed ones by class."""
    present = _present(kind.states for kind in kinds.values())
    classes = sorted({name for kind in kinds.values() for name in kind.failures})
    rows = [
        [
            name,
            str(kind.states.total()),
            *(str(kind.states[state] or "") for state in present if state != "failed"),
            *(str(kind.failures[failure] or "") for failure in classes),
        ]
        for name, kind in kinds.items()
    ]
    states = [SAID.get(state, state) for state in present if state != "failed"]
    failed = [_class(failure) for failure in classes]
    return table("", ["kind", "jobs", *states, *failed], rows)


SAID = {"waiting": "waiting for trunk"}


def _present(counted: Iterable[Counter[str]]) -> list[str]:
    total = sum(counted, Counter[str]())
    return [state for state in ORDER if total[state]]


def _class(failure: End) -> str:
    return "failed" if failure is End.FAILED else f"failed: {failure.words}"


def _percent(part: float, whole: float) -> str:
    """Rounded down: 100 % is when nothing is left."""
    return f"{int(100 * part / whole + 1e-9)}%" if whole else ""


def _progress(found: SweepStatus) -> list[Text]:
    told = f"{count(found.tokens_done)} of {count(found.tokens)} tokens, "
    told += _percent(found.tokens_done, found.tokens) or "100%"
    if not found.complete:
        told += "; time left: " + ("unknown" if found.eta_s is None else duration(found.eta_s))
    unit = "GPU-hours" if found.on_gpus else "device-hours"
    spent = f"{_hours(found.spent_s)} {unit} spent"
    if not found.complete:
        spent += ", " + ("unknown" if found.left_s is None else f"about {_hours(found.left_s)}") + " left"
    lines = [Text(f"{told}."), Text(f"{spent}.")]
    reasons = Counter(state.note or "no reason given" for _, state in found.in_state("queued"))
    if reasons:
        why = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(4))
        lines.append(Text(f"Queued: {why}."))
    return lines


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"


def _some(rows: Sequence[Any], most: int, shown: Callable[[Any], Text]) -> list[Text]:
    lines = [shown(row) for row in rows[:most]]
    if len(rows) > most:
        lines.append(Text(f"            and {len(rows) - most:,} more"))
    return lines


def _job(word: str, style: str, job: str, name: str, told: str) -> Text:
    return Text().append(f"  {word:8}", style).append(f"  {job}  {name}: {told}")


def _diverged(one: tuple[Entry, JobState]) -> Text:
    entry, state = one
    return _job("diverged", "yellow", entry.job.id, entry.name, state.note)


def _running(one: Running) -> Text:
    told = f"step {one.step} of {one.entry.job.end}"
    if one.tokens_per_s is not None:
        told += f", {count(one.tokens_per_s)} tokens/s"
    return _job("running", "", one.entry.job.id, one.entry.name, f"{told}, on {one.host}")


def _silent(one: Wrong) -> Text:
    told = f"no sign of life for {duration(one.silent_s or 0.0)}, {one.line}"
    return _job("silent", "yellow", one.entry.job.id, one.entry.name, told)


def _failed(one: Wrong) -> Text:
    told = "" if one.failure in (None, End.FAILED) else f"{one.failure.words}: "
    told += one.line or "no reason recorded"
    if one.waiting:
        told = f"({one.waiting} branch{'es' if one.waiting > 1 else ''} waiting for it) {told}"
    return _job("failed", "red", one.entry.job.id, one.entry.name, told)


def _next(found: SweepStatus) -> str:
    if found.complete:
        return "Everything the plans want is there."
    hint = f"`sweepctl launch {found.sweep}` trains what is missing."
    return f"{hint} `sweepctl logs {found.sweep} JOB` tells more of a job." if found.wrong else hint


def status_json(found: SweepStatus) -> dict[str, Any]:
    """The same facts, and every job."""
    return {
        "sweep": found.sweep,
        "complete": found.complete,
        "notes": found.notes,
        "train_s": found.train_s,
        "tokens_done": found.tokens_done,
        "tokens": found.tokens,
        "eta_s": found.eta_s,
        "device_hours_spent": found.spent_s / 3600,
        "device_hours_left": None if found.left_s is None else found.left_s / 3600,
        "kinds": {
            kind: {"jobs": row.states.total(), "states": dict(row.states), "failures": dict(row.failures)}
            for kind, row in found.kinds.items()
        },
        "rungs": [
            {
                "stage": row.stage,
                "rung": row.rung,
                "states": dict(row.states),
                "flops": row.flops,
                "flops_done": row.flops_done,
            }
            for row in found.rungs
        ],
        "wrong": [_wrong_json(one) for one in found.wrong],
        "jobs": [_job_json(entry, state, found.queue.get(entry.job.id)) for entry, state in found.jobs],
        "waiting_stages": found.waiting_stages,
    }


def _wrong_json(one: Wrong) -> dict[str, Any]:
    return {
        "id": one.entry.job.id,
        "what": one.what,
        "failure": one.failure or None,
        "line": one.line,
        "silent_s": one.silent_s,
        "branches_waiting": one.waiting,
    }


def _job_json(entry: Entry, state: JobState, task: Task | None) -> dict[str, Any]:
    return {
        "id": entry.job.id,
        "kind": entry.job.kind,
        "stage": entry.plan.stage,
        "rung": entry.plan.rung_of(entry.job).name,
        "state": state.state,
        "step": state.step,
        "end_step": entry.job.end,
        "attempts": state.attempts,
        "note": state.note or None,
        "failure": state.failure or None,
        "task": task.name if task else None,
        "queue_state": task.word if task else None,
    }
