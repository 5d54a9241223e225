"""Fits, predictions and recipes as screens and as JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from sweepctl.laws.law import Fit
from sweepctl.predict.recipe import Recipe
from sweepctl.predict.stage import Scored
from sweepctl.report.console import count, duration, flops, interval, many, percent, table

SYMBOLS = {
    "parametric": "L(N, D) = E + A / N^alpha + B / D^beta",
    "isoflop": "N*(C) = k_n C^a, D*(C) = k_d C^b, L*(C) = k_l C^c",
}


def show_fit(out: Console, made: Fit) -> None:
    """The law with its intervals, and what it stands on."""
    shown = {**made.params, **{k: v for k, v in made.derived.items() if k in ("a", "b")}}
    rows = []
    for name, value in shown.items():
        rows.append([name, *estimate(made, name, value)])
    out.print(f"[bold]{made.law}[/]: {SYMBOLS.get(made.law, '')}")
    out.print(table("", ["", "value", "95 % interval"], rows))
    convention = f"N {made.accounting.get('parameters', '?')}, C {made.accounting.get('flops', '?')}"
    left_out = Counter(row["reason"] for row in made.rows_excluded)
    reasons = "; ".join(f"{number} left out: {reason}" for reason, number in left_out.items())
    out.print(f"  {many(len(made.rows_used), 'run')} used ({convention}). {reasons}")
    if made.starts["tried"] > 1:
        out.print(f"  {made.starts['agreeing']} of {made.starts['tried']} starts end at this minimum")
    if "rms_log_residual" in made.derived:
        worst = made.derived["max_log_residual"]
        out.print(f"  residuals: rms {made.derived['rms_log_residual']:.2%}, largest {worst:.2%} of the loss")
    for minimum in made.details.get("minima", []):
        out.print(
            f"  C = {flops(minimum['flops'])}: N* = {count(minimum['n'])}, D* = {count(minimum['d'])}, "
            f"L* = {minimum['loss']:.4f} ({minimum['points']} sizes)"
        )
    if made.flags:
        out.print(f"  [yellow]flags: {', '.join(made.flags)}[/]")
    out.print()


def estimate(made: Fit, name: str, value: float) -> tuple[str, str]:
    """A parameter and its interval in words: four digits only of what the runs identify."""
    low, high = made.intervals.get(name, (None, None))
    bounds = f"{low:.4g} to {high:.4g}" if low is not None else ""
    if f"at_bound:{name}" in made.flags:
        return "at its bound, 0", ""
    return ("not identified" if f"not_identified:{name}" in made.flags else f"{value:.4g}"), bounds


def fit_json(made: Fit) -> dict[str, Any]:
    """The fit without its samples."""
    found = dataclasses.asdict(made)
    found.pop("samples")
    return found


def show_prediction(out: Console, prediction: dict[str, Any], new: bool) -> None:
    """What was written down of a stage."""
    rows = [
        [
            row["rung"],
            row["budget"],
            count(row["d"]),
            f"{row['d'] / row['n']:.3g}",
            f"{row['loss_nats']:.4f}",
            interval(row["run_interval"], 4),
        ]
        for row in prediction["observations"]
    ]
    when = f"stage {prediction['stage']}, written {prediction.get('written', 'now')}"
    kind = "before its first attempt" if prediction["prior"] else "after it began"
    columns = ["rung", "budget", "tokens", "tokens/N", "loss (nats)", "95 % interval of a run"]
    out.print(table(f"prediction of {when}, {kind}", columns, rows, 2, out.width, ("budget", "tokens/N")))
    if not new:
        out.print("Already written down; it stays as it is.")


def show_score(out: Console, scores: dict[str, list[Scored]]) -> None:
    """Predicted against measured."""
    for stage, scored in scores.items():
        rows = [
            [
                s.rung,
                s.budget,
                count(s.d),
                f"{s.d / s.n:.3g}",
                f"{s.predicted:.4f}",
                interval((s.low, s.high), 4),
                f"{s.measured:.4f}" if s.measured else "not yet",
                percent(s.error) if s.error is not None else "",
                {True: "yes", False: "no", None: ""}[s.inside],
            ]
            for s in scored
        ]
        columns = ["rung", "budget", "tokens", "tokens/N", "predicted", "95 % interval", "measured", "error"]
        title, spare = f"stage {stage}: predicted before it began", ("budget", "inside", "tokens/N")
        out.print(table(title, [*columns, "inside"], rows, 2, out.width, spare))
        known = [s for s in scored if s.error is not None]
        if known:
            worst = max(abs(s.error) for s in known if s.error is not None)
            inside = sum(bool(s.inside) for s in known)
            out.print(
                f"  largest error {worst:.2%} over {len(known)} budgets; "
                f"{inside} of {len(known)} inside their interval\n"
            )


def score_json(scores: dict[str, list[Scored]]) -> dict[str, Any]:
    """The same facts."""
    return {
        stage: [{**dataclasses.asdict(s), "error": s.error, "inside": s.inside} for s in scored]
        for stage, scored in scores.items()
    }


def show_recipe(out: Console, found: Recipe, made: Fit) -> None:
    """The run to train."""
    shape, accounting = found.shape, made.accounting
    rates = ", ".join(f"{kind} {rate:.3g}" for kind, rate in found.class_lr.items() if "gain" not in kind)
    rows = [
        ["shape", f"{shape.name}: {shape.n_heads} heads of {shape.head_size}, d_ff {shape.d_ff}"],
        ["parameters", f"{count(found.n)} ({accounting.get('parameters')})"],
        ["tokens", f"{count(found.d)}, {found.d / found.n:.3g} a parameter"],
        ["FLOPs", f"{flops(found.flops)} ({accounting.get('flops')}), {flops(found.flops_exact)} exact"],
        ["learning rate", f"{found.lr:.4g} at the base shape; here {rates}"],
        ["batch", f"{count(found.batch_tokens)} tokens, {found.steps} steps"],
        ["loss", f"{found.loss_nats.value:.4f} nats, {interval(found.loss_nats.run_interval, 4)} for a run"],
    ]
    if found.optimum:
        n, d = found.optimum["n"], found.optimum["d"]
        rows.append(["N* by the law", f"{count(n[0])}, {count(n[1][0])} to {count(n[1][1])}"])
        rows.append(["D* by the law", f"{count(d[0])}, {count(d[1][0])} to {count(d[1][1])}"])
    if found.device_hours is not None:
        rows.append(["device time", duration(found.device_hours * 3600)])
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        grid.add_row(*row)
    out.print(grid)
    where = f" where {made.protocol['where']}" if made.protocol.get("where") else ""
    out.print(f"  by the {made.law} law of {len(made.rows_used)} runs{where}")
    if found.beyond > 1:
        out.print(f"  [yellow]{found.beyond:.3g} times the FLOPs of the largest run planned: extrapolated[/]")
    for note in (*found.notes, *(f"the law's flag {flag}" for flag in made.flags)):
        out.print(f"  [yellow]{note}[/]")


def recipe_json(found: Recipe, made: Fit) -> dict[str, Any]:
    """The same facts."""
    law = {
        "law": made.law,
        "runs": len(made.rows_used),
        "where": made.protocol.get("where"),
        "flags": made.flags,
    }
    return {**dataclasses.asdict(found), "by": law}
