"""What a launch shows: live bars on a terminal, a line now and then elsewhere, and how it ended."""

from __future__ import annotations

import time
from functools import cached_property
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sweepctl.launch.feed import Decision
from sweepctl.launch.outcome import Trained
from sweepctl.report.console import END, RED, YELLOW, console, duration, flops, many, printable, table
from sweepctl.store.state import State
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from sweepctl.store.workspace import Sweep

SHOWN = 40
"""Jobs that a dry run lists."""
LINE_S = 15.0
"""Seconds between lines where there is no terminal."""


class LaunchView:
    """Progress by exact training FLOPs, for every running job and in total, with the time that is left."""

    def __init__(self, sweep_jobs: SweepJobs, out: Console | None) -> None:
        self.sweep_jobs = sweep_jobs
        self.console = out or console(quiet=True)
        self._ended = 0
        self._left: dict[str, float] = {}
        self._all: TaskID | None = None
        self._began = self._spoke = time.monotonic()
        self._running: dict[str, tuple[PlannedJob, TaskID | None]] = {}
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%", markup=False),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            refresh_per_second=4,
        )

    def __enter__(self) -> LaunchView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    @cached_property
    def _flops(self) -> dict[str, float]:
        """FLOPs of every job that is to be trained; read when the first one starts."""
        return {planned_job.job.id: planned_job.flops for planned_job in self.sweep_jobs.unfinished()}

    def _bar_of_all(self) -> TaskID:
        """The bar of all jobs, the topmost; the terminal is taken when it is first asked for."""
        if self._all is None:
            self._bars.start()
            self._all = self._bars.add_task("all jobs", total=max(sum(self._flops.values()), 1.0), note="")
        return self._all

    def started(self, planned_job: PlannedJob, worker: int) -> None:
        task = None
        if self.console.is_terminal:
            self._bar_of_all()
            task = self._bars.add_task(
                printable(planned_job.name), total=max(1, planned_job.steps_to_train), note=f"worker {worker}"
            )
        self._running[planned_job.job.id] = (planned_job, task)

    def progress(self, planned_job: PlannedJob, step: int) -> None:
        self._left[planned_job.job.id] = planned_job.flops * (1 - planned_job.share(step))
        _, task = self._running.get(planned_job.job.id, (planned_job, None))
        if task is not None:
            self._bars.update(task, completed=max(0, step - planned_job.first_step))

    def ended(self, decision: Decision) -> None:
        planned_job = decision.planned_job
        _, task = self._running.pop(planned_job.job.id, (planned_job, None))
        if task is not None:
            self._bars.remove_task(task)
        if decision.state.is_final:
            self._left[planned_job.job.id] = 0.0
            self._ended += 1
        troubled = decision.end is not None and decision.end.has_retries
        if troubled or decision.state in (State.FAILED, State.DIVERGED):
            self.console.print(f"{YELLOW}{planned_job.name}{END} {planned_job.job.id}: ", end="")
            self.console.print(decision.words, soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(printable(text), soft_wrap=True)

    def tick(self, elsewhere: int) -> None:
        flops = self._flops
        total = sum(flops.values())
        done = sum(whole - self._left.get(job, whole) for job, whole in flops.items())
        note = f"{self._ended}/{len(flops)} jobs, {self._remaining(done, total)}"
        if elsewhere:
            note += f", {elsewhere} trained by another launch"
        if self.console.is_terminal:
            self._bars.update(self._bar_of_all(), completed=done, note=note)
        elif time.monotonic() - self._spoke >= LINE_S:
            self._spoke = time.monotonic()
            share = done / total if total else 1.0
            self.console.print(f"{share:4.0%} of the FLOPs, {note}")

    def _remaining(self, done: float, total: float) -> str:
        elapsed = time.monotonic() - self._began
        if done <= 0 or elapsed < 3:
            return "estimating"
        return f"{duration(elapsed * (total - done) / done)} left"


def show_todo(out: Console, sweep_jobs: SweepJobs, held: list[str]) -> None:
    """What a launch would train now, and what waits."""
    planned_jobs = list(sweep_jobs.unfinished())
    rows = [
        [e.job.id, e.name, e.job.kind, "yes" if sweep_jobs.can_start(e) else "", flops(e.flops)]
        for e in planned_jobs[:SHOWN]
    ]
    out.print(table("to train", ["job", "what", "kind", "can start", "FLOPs"], rows, left=3))
    if len(planned_jobs) > SHOWN:
        out.print(f"  and {len(planned_jobs) - SHOWN} more; --json lists them all")
    show_held(out, sweep_jobs, held)


def show_outcome(out: Console, sweep_jobs: SweepJobs, held: list[str], report: Trained) -> None:
    """How a launch ended."""
    name = sweep_jobs.sweep.name
    if report.stopped:
        out.print(f"Stopped; every running job saved its state. `sweepctl launch {name}` continues.")
    elif report.cancelled:
        out.print(
            f"{many(len(report.cancelled), 'job')} cancelled; `sweepctl launch {name}` takes them up again."
        )
    elif report.failed:
        for job, message in report.failed.items():
            lines = [line for line in message.splitlines() if line.strip()] or [""]
            out.print(
                f"{RED}failed{END} {job} {sweep_jobs.by_id[job].name}: {lines[-1].strip()}", soft_wrap=True
            )
        waiting = len(set(report.blocked) - set(report.failed))
        if waiting:
            out.print(f"Waiting for a failed one: {many(waiting, 'job')}.")
    elif report.blocked:
        out.print(
            f"{RED}{many(len(report.blocked), 'job')} could not start{END}; see `sweepctl status {name}`."
        )
    elif not report.finished:
        out.print(f"Nothing to train: everything {'else ' if held else ''}the plans want is there.")
    else:
        diverged = f", of which {YELLOW}{len(report.diverged)} diverged{END}" if report.diverged else ""
        out.print(
            f"Trained {many(len(report.finished), 'job')}{diverged}; everything these stages want is there."
        )
    if report.dropped:
        out.print(f"{many(len(report.dropped), 'job')} left: no plan wants them any more.")
    if not report.stopped:
        show_held(out, sweep_jobs, held)
        show_waiting(out, sweep_jobs.sweep)


def show_waiting(out: Console, sweep: Sweep) -> None:
    """Stages that could not be planned yet."""
    waiting = ", ".join(sweep.waiting_stages())
    if waiting:
        out.print(
            f"Waiting for another stage's results: {waiting}. `sweepctl plan` again, as before, plans them."
        )


def show_held(out: Console, sweep_jobs: SweepJobs, held: list[str]) -> None:
    for stage in held:
        out.print(
            f"Stage {stage} is held back until its prediction is written: "
            f"`sweepctl predict {sweep_jobs.sweep.name} --stage {stage}`."
        )


def launch_json(sweep_jobs: SweepJobs, held: list[str], report: Trained | None = None) -> dict[str, Any]:
    """What a launch did, or would do."""
    facts: dict[str, Any] = {"sweep": sweep_jobs.sweep.name, "held": held}
    if report is None:
        todo = [
            {"id": e.job.id, "kind": e.job.kind, "what": e.name, "can_start": sweep_jobs.can_start(e)}
            for e in sweep_jobs.unfinished()
        ]
        return {**facts, "to_train": todo}
    return {
        **facts,
        "finished": report.finished,
        "diverged": report.diverged,
        "failed": report.failed,
        "cancelled": report.cancelled,
        "blocked": report.blocked,
        "dropped": report.dropped,
        "stopped": report.stopped,
    }
