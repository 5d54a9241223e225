"""A sweep's status as a screen and as JSON."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sweepctl.launch.speed import Running
from sweepctl.launch.status import ORDER, KindStatus, Problem, RungStatus, SweepStatus
from sweepctl.launch.tasks import Task
from sweepctl.report.console import count, duration, flops, printable, table
from sweepctl.store.ends import End
from sweepctl.store.state import JobState
from sweepctl.store.sweep_jobs import PlannedJob

RUNGS, RUNNING, DIVERGED, SILENT, FAILED = 12, 5, 4, 4, 10
"""How many of each one screen shows."""
WIDEST = 1000
"""Columns of a screen on which any table fits."""
TABLE_LINES = 5
"""Lines of a table besides its rows."""


def show_status(out: Console, sweep: SweepStatus) -> None:
    """Print the screen once, its lines whole."""
    out.print(screen(sweep), crop=False)


def watch_status(out: Console, look: Callable[[], SweepStatus], every_s: float) -> None:
    """Look again every so many seconds until everything is there: in place on a terminal, elsewhere one
    screen below the other."""
    sweep = look()
    if not out.is_terminal:
        show_status(out, sweep)
        while not sweep.complete:
            time.sleep(every_s)
            out.print()
            show_status(out, sweep := look())
        return
    with Live(screen(sweep, out.height), console=out, auto_refresh=False) as live:
        while not sweep.complete:
            time.sleep(every_s)
            live.update(screen(sweep := look(), out.height), refresh=True)


def screen(sweep: SweepStatus, height: int | None = None) -> Group:
    """Rungs, kinds, how far it is, what runs, what is wrong, and what to do about it. With a `height`, as
    many rungs as leave the rest a place, and long lines cut."""
    lines = _progress(sweep)
    lines += _some([attempt for attempt in sweep.running if not attempt.silent], RUNNING, _running)
    lines += _some(sweep.in_state("diverged"), DIVERGED, _diverged)
    lines += _some([problem for problem in sweep.problems if problem.what == "silent"], SILENT, _silent)
    failed = [problem for problem in sweep.problems if problem.what == "failed"]
    lines += _some(sorted(failed, key=lambda problem: -problem.waiting), FAILED, _failed)
    if sweep.waiting_stages:
        names = ", ".join(sweep.waiting_stages)
        text = f"Waiting for another stage's results: {names}. `sweepctl plan` again, as before, plans them."
        lines.append(Text(printable(text)))
    lines += [Text(printable(note), "yellow") for note in sweep.notes]
    lines.append(Text(_next(sweep)))
    for line in lines:
        line.no_wrap, line.overflow = True, "ignore" if height is None else "ellipsis"
    room = RUNGS if height is None else height - len(lines) - len(sweep.kinds) - 2 * TABLE_LINES
    return Group(_rungs(sweep, max(3, min(RUNGS, room))), _kinds(sweep.kinds), *lines)


class Fitting:
    """A table with a column a state; where that would cut a number, one with the states in words."""

    def __init__(self, wide: Table, narrow: Table) -> None:
        self._wide, self._narrow = wide, narrow

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needs = Measurement.get(console, options.update(width=WIDEST), self._wide).minimum
        yield self._wide if needs <= options.max_width else self._narrow


def _in_words(states: Counter[str]) -> str:
    return ", ".join(f"{states[state]} {state}" for state in ORDER if states[state])


def _rungs(sweep: SweepStatus, most: int) -> Fitting:
    """One line a rung; where there are too many, those that are not complete, and the rest in one line."""
    rungs = sweep.rungs
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
    name, ends = f"sweep {sweep.name}", ["trained", "FLOPs left"]
    trained = [
        [
            _percent(row.flops_done, row.flops),
            flops(row.flops - row.flops_done) if row.flops > row.flops_done else "",
        ]
        for row in chosen
    ]
    wide, narrow = [], []
    for row, last in zip(chosen, trained, strict=True):
        wide.append([row.stage, row.rung, *(str(row.states[state] or "") for state in present), *last])
        narrow.append([row.stage, row.rung, _in_words(row.states), *last])
    return Fitting(
        table(name, ["stage", "rung", *present, *ends], wide, left=2),
        table(name, ["stage", "rung", "jobs", *ends], narrow, left=2),
    )


def _kinds(kinds: dict[str, KindStatus]) -> Fitting:
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
    narrow = [
        [name, str(kind.states.total()), _in_words(kind.states), _failures(kind)]
        for name, kind in kinds.items()
    ]
    return Fitting(
        table("", ["kind", "jobs", *states, *failed], rows),
        table("", ["kind", "jobs", "states", "failed of"], narrow),
    )


def _failures(kind: KindStatus) -> str:
    return ", ".join(f"{number} {failure.words}" for failure, number in kind.failures.most_common())


SAID = {"waiting": "waiting for trunk"}


def _present(counted: Iterable[Counter[str]]) -> list[str]:
    total = sum(counted, Counter[str]())
    return [state for state in ORDER if total[state]]


def _class(failure: End) -> str:
    return "failed" if failure is End.FAILED else f"failed: {failure.words}"


def _percent(part: float, whole: float) -> str:
    """Rounded down: 100 % is when nothing is left."""
    return f"{int(100 * part / whole + 1e-9)}%" if whole else ""


def _progress(sweep: SweepStatus) -> list[Text]:
    text = f"{count(sweep.tokens_done)} of {count(sweep.tokens)} tokens, "
    text += _percent(sweep.tokens_done, sweep.tokens) or "100%"
    if not sweep.complete:
        text += "; time left: " + ("unknown" if sweep.eta_s is None else duration(sweep.eta_s))
    unit = "GPU-hours" if sweep.on_gpus else "device-hours"
    spent = f"{_hours(sweep.spent_s)} {unit} spent"
    if not sweep.complete:
        spent += ", " + ("unknown" if sweep.left_s is None else f"about {_hours(sweep.left_s)}") + " left"
    lines = [Text(f"{text}."), Text(f"{spent}.")]
    reasons = Counter(state.note or "no reason given" for _, state in sweep.in_state("queued"))
    if reasons:
        why = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(4))
        lines.append(Text(printable(f"Queued: {why}.")))
    return lines


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"


def _some(rows: Sequence[Any], most: int, shown: Callable[[Any], Text]) -> list[Text]:
    lines = [shown(row) for row in rows[:most]]
    if len(rows) > most:
        lines.append(Text(f"            and {len(rows) - most:,} more"))
    return lines


def _job(word: str, style: str, job: str, name: str, text: str) -> Text:
    return Text().append(f"  {word:8}", style).append(printable(f"  {job}  {name}: {text}"))


def _diverged(job: tuple[PlannedJob, JobState]) -> Text:
    planned_job, state = job
    return _job("diverged", "yellow", planned_job.job.id, planned_job.name, state.note)


def _running(attempt: Running) -> Text:
    text = f"step {attempt.step} of {attempt.planned_job.job.end}"
    if attempt.tokens_per_s is not None:
        text += f", {count(attempt.tokens_per_s)} tokens/s"
    return _job(
        "running", "", attempt.planned_job.job.id, attempt.planned_job.name, f"{text}, on {attempt.host}"
    )


def _silent(problem: Problem) -> Text:
    text = f"no sign of life for {duration(problem.silent_s or 0.0)}, {problem.line}"
    return _job("silent", "yellow", problem.planned_job.job.id, problem.planned_job.name, text)


def _failed(problem: Problem) -> Text:
    text = "" if problem.failure in (None, End.FAILED) else f"{problem.failure.words}: "
    text += problem.line or "no reason recorded"
    if problem.waiting:
        text = f"({problem.waiting} branch{'es' if problem.waiting > 1 else ''} waiting for it) {text}"
    return _job("failed", "red", problem.planned_job.job.id, problem.planned_job.name, text)


def _next(sweep: SweepStatus) -> str:
    if sweep.complete:
        return "Everything the plans want is there."
    hint = f"`sweepctl launch {sweep.name}` trains what is missing."
    return f"{hint} `sweepctl logs {sweep.name} JOB` tells more of a job." if sweep.problems else hint


def status_json(sweep: SweepStatus) -> dict[str, Any]:
    """The same facts, and every job."""
    return {
        "sweep": sweep.name,
        "complete": sweep.complete,
        "notes": sweep.notes,
        "train_s": sweep.train_s,
        "tokens_done": sweep.tokens_done,
        "tokens": sweep.tokens,
        "eta_s": sweep.eta_s,
        "device_hours_spent": sweep.spent_s / 3600,
        "device_hours_left": None if sweep.left_s is None else sweep.left_s / 3600,
        "kinds": {
            kind: {"jobs": row.states.total(), "states": dict(row.states), "failures": dict(row.failures)}
            for kind, row in sweep.kinds.items()
        },
        "rungs": [
            {
                "stage": row.stage,
                "rung": row.rung,
                "states": dict(row.states),
                "flops": row.flops,
                "flops_done": row.flops_done,
            }
            for row in sweep.rungs
        ],
        "wrong": [_problem_json(problem) for problem in sweep.problems],
        "jobs": [
            _job_json(planned_job, state, sweep.queue.get(planned_job.job.id))
            for planned_job, state in sweep.jobs
        ],
        "older": [planned_job.job.id for planned_job in sweep.older],
        "waiting_stages": sweep.waiting_stages,
    }


def _problem_json(problem: Problem) -> dict[str, Any]:
    return {
        "id": problem.planned_job.job.id,
        "what": problem.what,
        "failure": problem.failure or None,
        "line": problem.line,
        "silent_s": problem.silent_s,
        "branches_waiting": problem.waiting,
    }


def _job_json(planned_job: PlannedJob, state: JobState, task: Task | None) -> dict[str, Any]:
    return {
        "id": planned_job.job.id,
        "kind": planned_job.job.kind,
        "stage": planned_job.plan.stage,
        "rung": planned_job.plan.rung_of(planned_job.job).name,
        "state": state.state,
        "step": state.step,
        "end_step": planned_job.job.end,
        "attempts": state.attempts,
        "note": state.note or None,
        "failure": state.failure or None,
        "task": task.name if task else None,
        "queue_state": task.word if task else None,
    }
