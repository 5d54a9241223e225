"""Verdicts of checks, as screens and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from sweepctl.check.coordinates import CoordinateResult
from sweepctl.check.fork import ForkResult
from sweepctl.check.slopes import FLAT, Slope
from sweepctl.launch.doctor import Finding
from sweepctl.report.console import BOLD, DIM, END, GREEN, RED, YELLOW, console, count, many, place, table
from sweepctl.report.doctor import DoctorView

SHOWN = 6
"""Sentences on what breaks; the rest is in the table."""
_KINDS = {"activation": "RMS of", "change": "change of", "update": "update of"}


class ProgressLine:
    """One line on what is being done, on a terminal that shows it."""

    def __init__(self, quiet: bool) -> None:
        self._out = console(stderr=True, quiet=quiet)
        self._status = self._out.status("")

    @contextmanager
    def shown(self) -> Iterator[ProgressLine]:
        if self._out.is_terminal:
            self._status.start()
        try:
            yield self
        finally:
            self._status.stop()

    def say(self, text: str) -> None:
        self._status.update(self._out.render_str(f"{DIM}{text}{END}"))

    def models(self, done: int, of: int) -> None:
        """So many of so many models are measured."""
        self.say(f"model {done + 1} of {of}")


def verdict(out: Console, holds: bool, name: str, summary: str) -> None:
    """The last line of every check."""
    shown = f"{GREEN}holds{END}" if holds else f"{RED}does not hold{END}"
    out.print(f"{BOLD}{name}{END} {shown}: {summary}", soft_wrap=True)


def rows_of(result: CoordinateResult) -> dict[tuple[str, str], list[Slope]]:
    """(kind, quantity) -> at each step the slope of the layer that is furthest from flat, a judged one where
    there is any. What is 0 everywhere is left out."""
    rows: dict[tuple[str, str], dict[int, Slope]] = {}
    for slope in result.slopes:
        at = rows.setdefault((slope.kind, slope.part), {})
        if slope.values and any(slope.values) and not _milder(slope, at.get(slope.step)):
            at[slope.step] = slope
    order = {kind: number for number, kind in enumerate(_KINDS)}
    ranked = sorted(rows.items(), key=lambda item: order[item[0][0]])
    return {name: list(steps.values()) for name, steps in ranked if steps}


def _milder(slope: Slope, other: Slope | None) -> bool:
    return other is not None and (slope.judged, slope.off) <= (other.judged, other.off)


def show_coordinates(result: CoordinateResult, kept: Path, picture: Path | None) -> None:
    """What was trained, the power of the width by which every quantity grows at every step (of the layer that
    is furthest from flat, with half the 95 % interval of the worst), and the verdict."""
    out, request = console(), result.request
    axis = request.axis
    _show_setting(out, result)
    steps = [0, *sorted(request.steps)]
    lines = []
    for (kind, part), row in rows_of(result).items():
        by_step = {slope.step: slope for slope in row}
        cells = [_cell(by_step.get(step)) for step in steps]
        judged = [slope for slope in row if slope.judged]
        word = (
            "" if not judged
            else f"{RED}breaks{END}" if any(s.breaks for s in judged)
            else f"{YELLOW}unclear{END}" if any(s.unclear for s in judged)
            else f"{GREEN}flat{END}"
        )  # fmt: skip
        lines.append([_KINDS[kind], part, *cells, _half(max(row, key=lambda s: (s.judged, s.off))), word])
    columns = [f"{axis}^", "", *(f"step {step}" for step in steps), "±", ""]
    out.print(table("", columns, lines, left=2))
    for text in result.broken[:SHOWN]:
        out.print(f"  {text}", soft_wrap=True)
    if len(result.broken) > SHOWN:
        out.print(f"  and {len(result.broken) - SHOWN} more, see the table")
    worst = max((s.off for s in result.slopes if s.judged), default=0.0)
    summary = f"the steepest judged slope is {worst:.2f}; {FLAT} is allowed"
    if not result.resolved:
        summary += ", which every interval reaches: take more --seeds, or larger --widths"
    verdict(out, result.holds, "coordinates", summary)
    out.print(f"Kept in {place(kept)}" + (f", drawn in {place(picture)}" if picture else ""), soft_wrap=True)


def _show_setting(out: Console, result: CoordinateResult) -> None:
    request, setting = result.request, result.setting
    fixed = f"{request.depths[0]} layers" if request.axis == "width" else f"width {request.widths[0]}"
    batch, own = setting.batch, setting.own_batch
    cut = "" if batch == own else f" (the study's: {count(own.tokens)} x {own.context})"
    sizes = ", ".join(str(size) for size in result.sizes)
    out.print(
        f"{request.axis.capitalize()}s {sizes} at {fixed}, {many(result.seeds, 'seed')}: up to "
        f"{max(request.steps)} updates of {count(batch.tokens)} tokens, context {batch.context}{cut}, "
        f"at a constant learning rate of {setting.lr:.4g} without warmup, in fp32.\n",
        soft_wrap=True,
    )


def _cell(slope: Slope | None) -> str:
    if slope is None:
        return f"{DIM}0{END}"
    if not slope.judged:
        return f"{DIM}-{END}" if slope.slope is None else f"{DIM}{slope.slope:+.2f}{END}"
    text = "nan" if slope.slope is None else f"{slope.slope:+.2f}"
    return text if slope.holds else f"{YELLOW}{text}{END}" if slope.unclear else f"{RED}{text}{END}"


def _half(slope: Slope) -> str:
    """Half of the 95 % interval."""
    return "" if slope.low is None or slope.high is None else f"{(slope.high - slope.low) / 2:.2f}"


def show_fork(result: ForkResult) -> None:
    """What was trained and how far the ends lie apart."""
    out = console()
    where = "no fork: its schedule cannot, so only resuming is checked" if result.cut is None else (
        f"the branch leaves the trunk at step {result.cut}"
    )  # fmt: skip
    cut = result.warmup_steps < result.own_warmup_steps
    warmup = f", warmup shortened from {result.own_warmup_steps} to {result.warmup_steps}" if cut else ""
    how = ", compiled" * result.compiled + ", deterministic" * result.deterministic
    how += ", each attempt a process of its own with nothing compiled before" * result.apart
    out.print(
        f"Rung {result.rung}, {result.steps} updates{warmup}; {where}. {result.precision} on "
        f"{result.device}{how}.\n",
        soft_wrap=True,
    )
    every = [*result.compared, *([result.noise] if result.noise else [])]
    rows = [
        [
            run.what,
            *(_distance(value) for value in (run.weights, run.state, run.loss)),
            "yes" if run.exact else "no",
        ]
        for run in every
    ]
    columns = ["distance from the straight run", "weights", "optimizer", "loss (nats)", "every bit"]
    out.print(table("", columns, rows))
    verdict(out, result.holds, "fork", result.summary)


def _distance(value: float) -> str:
    return f"{value:.2g}" if value else "0"


def show_findings(name: str, examine: Callable[[Callable[[str], None]], Iterable[Finding]]) -> bool:
    """A line a finding, as they come, and the verdict: whether none failed. `examine` gives the findings and
    is given who says what is being done."""
    out, failed, number = console(), list[str](), 0
    view = DoctorView(out)
    try:
        for finding in examine(view.say):
            view.show(finding)
            number += 1
            failed += [finding.check] * (finding.verdict == "failed")
    finally:
        view.close()
    summary = f"{', '.join(dict.fromkeys(failed))} failed" if failed else f"{number} findings, none failed"
    verdict(out, not failed, name, summary)
    return not failed
