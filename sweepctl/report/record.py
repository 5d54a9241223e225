"""What the intervals of predictions are made of, and what a law did to sizes that it was not fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from sweepctl.fitting.fit import BAD_RECORD
from sweepctl.laws.fit import Fit, HeldOutRow, Parts
from sweepctl.report.console import percent, table

NAMES = {
    "parameters": "parameters",
    "run": "run",
    "trunk": "trunk",
    "beyond": "beyond the runs",
    "carried": "rate carried",
}
OTHERS = {
    "isoflop": {"run": "budget", "beyond": "beyond the budgets"},
    "hyperparameters": {"run": "optimum", "trunk": "cell", "beyond": "beyond the cells"},
}
"""Where what is predicted is no run."""
WHOSE = {"isoflop": "another budget", "hyperparameters": "another cell"}
"""What it is then; elsewhere a run."""


def show_record(out: Console, fit: Fit) -> None:
    """Each of the larger sizes as the law of those below predicted it, a line each."""
    by_size: dict[float, list[HeldOutRow]] = {}
    for row in sorted(fit.backtests, key=lambda row: row.fitted_up_to):
        by_size.setdefault(row.fitted_up_to, []).append(row)
    if not by_size:
        return
    rows = []
    for below, of_one in by_size.items():
        errors = [row.error for row in of_one]
        judged = [row.inside for row in of_one if row.inside is not None]
        held = f"{sum(judged)} of {len(judged)}" if judged else ""
        rows.append([f"{below:.3g}", percent(sum(errors) / len(errors)), percent(max(errors, key=abs)), held])
    title = "its own record: the next size, predicted from those below"
    columns = [f"fitted up to {fit.backtests[0].role}", "mean error", "largest", "inside"]
    out.print(table(title, columns, rows))


def record_note(fit: Fit) -> str | None:
    """What a reader of a prediction must know of a law whose record is bad."""
    inside, judged = fit.record_of_backtests()
    bad = any(flag.startswith(BAD_RECORD) for flag in fit.flags)
    return f"the law's own record is bad: of {judged} rows of larger sizes {inside} inside" if bad else None


def made_of(parts: Parts, law: str = "parametric") -> str:
    """What the interval of a run is made of, in words."""
    names = NAMES | OTHERS.get(law, {})
    shares = ((name, getattr(parts, key)) for key, name in names.items())
    return ", ".join(f"{name} {100 * share:.2g} %" for name, share in shares if share > 0)


def show_widest(out: Console, every: Sequence[Mapping[str, float] | None]) -> None:
    """What the widest of several intervals is made of, where that was written down."""
    written = [Parts(**parts) for parts in every if parts]
    if written:
        out.print(f"  the widest interval is made of: {made_of(max(written, key=lambda parts: parts.half))}")
