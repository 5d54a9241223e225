"""Fits, predictions and recipes as screens and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rich.console import Console
from rich.table import Table

from sweepctl.fitting.fit import BAD_RECORD
from sweepctl.laws.fit import Answer, Fit, Prediction
from sweepctl.laws.law import Law
from sweepctl.laws.registry import LAWS
from sweepctl.predict.recipe import Recipe
from sweepctl.predict.stage import Scored
from sweepctl.report.console import (
    BOLD,
    END,
    YELLOW,
    count,
    duration,
    flops,
    interval,
    many,
    percent,
    show_json,
    table,
)
from sweepctl.report.record import WHOSE, made_of, record_note, show_record, show_widest
from sweepctl.store.files import finite, storage, write_text
from sweepctl.store.predictions import StagePrediction

DEVIATIONS = 16
"""Rows of a table of deviations on the screen."""


SHOWN = ("rms_log_residual", "max_log_residual", "held_out_rms", "held_out_max", "held_out_inside")
"""Derived figures that have a line of their own."""


def show_laws(out: Console, json_file: str | None) -> None:
    """Every law with its formula, source, columns, targets and options."""
    by_name = {law.name: _law_json(law) for law in LAWS.values()}
    if json_file is not None:
        write_fit_json(json_file, by_name)
    if json_file == "-":
        return
    for law in LAWS.values():
        described = by_name[law.name]
        out.print(f"{BOLD}{law.name}{END}: {law.formula}")
        out.print(
            f"  {law.source}. Needs {', '.join(law.needs)}{_more(law)}; predicts {_targets(law) or 'nothing'}"
        )
        rows = [
            [name, json.dumps(facts["default"]), facts["values"], facts["told"]]
            for name, facts in described["options"].items()
        ]
        listing = table("", ["option", "default", "values", ""], rows, 4)
        for column in listing.columns[1:]:
            column.no_wrap = False
        out.print(listing)


def _law_json(law: Law) -> dict[str, Any]:
    hints = get_type_hints(law.options)
    options = {
        option.name: {
            "default": list(option.default) if isinstance(option.default, tuple) else option.default,
            "values": _values(hints[option.name]),
            "told": option.metadata.get("told", ""),
        }
        for option in dataclasses.fields(law.options)
    }
    return {
        "formula": law.formula, "source": law.source, "needs": list(law.needs), "takes": list(law.takes),
        "targets": [list(target) for target in law.targets], "options": options,
    }  # fmt: skip


def _values(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return "list of " + _values(get_args(kind)[0])
    if get_args(kind):
        return " or ".join(_values(part) for part in get_args(kind))
    return {float: "number", int: "whole number", str: "text", bool: "true, false"}.get(kind, "null")


def _more(law: Law) -> str:
    return f", takes {', '.join(law.takes)}" if law.takes else ""


def _targets(law: Law) -> str:
    return " or ".join("at " + ",".join(target) for target in law.targets)


def show_fit(out: Console, fit: Fit) -> None:
    """The law with its intervals, what it stands on, and what was asked of it."""
    shown = {**fit.params, **{k: v for k, v in fit.derived.items() if k in fit.intervals}}
    rows = [[name, *estimate(fit, name, value)] for name, value in shown.items()]
    formula = LAWS[fit.law].formula if fit.law in LAWS else ""
    out.print(f"{BOLD}{fit.law}{END}: {formula}")
    out.print(table("", ["", "value", "95 % interval"], rows))
    counts = {"N": "parameters", "C": "flops"}
    counted = [f"{sign} {fit.accounting[key]}" for sign, key in counts.items() if key in fit.accounting]
    convention = f" ({', '.join(counted)})" if counted else ""
    left_out = Counter(row.reason for row in fit.rows_excluded)
    reasons = "; ".join(f"{number} left out: {reason}" for reason, number in left_out.items())
    out.print(f"  {many(len(fit.rows_used), 'row')} used{convention}. {reasons}")
    if fit.accounting.get("reduction", "none") != "none":
        out.print(f"  reduced: {fit.accounting['reduction']}")
    out.print(f"  intervals: {fit.protocol.get('intervals', 'none')}")
    if fit.starts.tried > 1:
        out.print(f"  {fit.starts.agreeing} of {fit.starts.tried} starts end at this minimum")
    if "rms_log_residual" in fit.derived:
        worst = fit.derived["max_log_residual"]
        out.print(f"  residuals: rms {fit.derived['rms_log_residual']:.2%}, largest {worst:.2%} of the loss")
    for minimum in fit.details.get("minima", []):
        out.print(
            f"  C = {flops(minimum['flops'])}: N* = {count(minimum['n'])}, D* = {count(minimum['d'])}, "
            f"L* = {minimum['loss']:.4f} ({minimum['points']} sizes)"
        )
    rest = {k: v for k, v in fit.derived.items() if k not in fit.intervals and k not in SHOWN}
    if rest:
        out.print("  " + ", ".join(f"{name} {value:.4g}" for name, value in rest.items()))
    for name, why in fit.details.get("not_fitted", {}).items():
        out.print(f"  no law of {name}: {why}")
    _show_deviations(out, fit)
    show_record(out, fit)
    if fit.flags:
        out.print(f"  {YELLOW}flags: {', '.join(fit.flags)}{END}")
    _show_answers(out, fit)
    out.print()


def _show_deviations(out: Console, fit: Fit) -> None:
    """How far rows lie from the law in percent: all of a few, the largest of many."""
    rows = sorted(fit.details.get("deviations", []), key=lambda row: row["flops"])
    title = "how far rows lie from the law"
    if len(rows) > DEVIATIONS:
        title += f", the {DEVIATIONS} largest of {len(rows)}"
        rows = sorted(rows, key=lambda row: -abs(row["deviation"]))[:DEVIATIONS]
    if rows:
        shown = [
            [row["row"], flops(row["flops"]), f"{row['loss']:.4f}", f"{row['law']:.4f}",
             percent(row["deviation"] / 100), "" if row["fitted"] else "not fitted"]
            for row in rows
        ]  # fmt: skip
        out.print(table(title, ["row", "C", "loss", "law", "deviation", ""], shown))


def _show_answers(out: Console, fit: Fit) -> None:
    """Predictions, what was held out, and the other accountings."""
    for answer in fit.predictions:
        _show_answer(out, answer, fit.law)
    if fit.details.get("targets"):
        rows = [
            [
                row["row"],
                row["quantity"],
                f"{row['predicted']:.5g}",
                f"{row['actual']:.5g}",
                percent(row["error"]),
            ]
            for row in fit.details["targets"]
        ]
        columns = ["row", "", "predicted", "measured", "error"]
        out.print(table("rows that were only predicted", columns, rows))
    if fit.held_out:
        rows = [
            [row.row, f"{row.fitted_up_to:.3g}", f"{row.predicted:.4f}", f"{row.measured:.4f}",
             percent(row.error), bounds(row.interval), {True: "yes", False: "no", None: ""}[row.inside]]
            for row in fit.held_out
        ]  # fmt: skip
        role = fit.held_out[0].role
        columns = ["row", f"fitted up to {role}", "predicted", "measured", "error", "95 % interval", "inside"]
        out.print(table("held out", columns, rows))
        judged = [row.inside for row in fit.held_out if row.inside is not None]
        coverage = f"; {sum(judged)} of {len(judged)} inside their interval" if judged else ""
        out.print(f"  rms error {fit.derived['held_out_rms']:.2%}{coverage}")
    if fit.other_accountings:
        names = list(fit.params) + [k for k in fit.derived if k in fit.intervals]
        rows = []
        for counted, under in fit.other_accountings.items():
            values = {**under.derived, **under.params}
            rows.append([counted, *(f"{values[k]:.4g}" if k in values else "" for k in names)])
        out.print(table("under each accounting (parameters/FLOPs)", ["", *names], rows))


def _show_answer(out: Console, answer: Answer, law: str) -> None:
    """What the law says at one place."""
    at = ", ".join(
        f"{role} = {value if isinstance(value, str | int) else f'{value:.4g}'}"
        for role, value in answer.at.items()
    )
    whose = WHOSE.get(law, "a run")
    rows = [
        [name, _value(estimate.value), bounds(estimate.interval)]
        for name, estimate in answer.estimates.items()
    ]
    if answer.measured is not None and answer.error is not None:
        rows += [["measured", _value(answer.measured), ""], ["error", _value(answer.error), ""]]
    rows += [
        [f"{name} of {whose}".replace("_", " "), "", bounds(estimate.run_interval)]
        for name, estimate in answer.estimates.items()
        if isinstance(estimate, Prediction)
    ]
    out.print(table(f"at {at}", ["", "value", "95 % interval"], rows))
    for name, parts in answer.parts.items():
        out.print(f"  {name} of {whose}: {made_of(parts, law)}".replace("_", " "))


def _value(value: float) -> str:
    return f"{value:.5g}" if math.isfinite(value) else "not identified"


def bounds(interval: Any) -> str:
    """An interval in words; nothing where there is none."""
    if interval is None or not all(math.isfinite(end) for end in interval):
        return ""
    return f"{interval[0]:.4g} to {interval[1]:.4g}"


def estimate(fit: Fit, name: str, value: float) -> tuple[str, str]:
    """A parameter and its interval in words: four digits only of what the runs identify."""
    ends = bounds(fit.intervals.get(name))
    if f"at_bound:{name}" in fit.flags:
        return f"{value:.4g}, at its bound", ""
    return ("not identified" if f"not_identified:{name}" in fit.flags else f"{value:.4g}"), ends


def fit_json(fit: Fit) -> dict[str, Any]:
    """The fit without its samples; what is not a finite number is none."""
    record = fit.record()
    record.pop("samples")
    clean: dict[str, Any] = finite(record)
    return clean


def write_fit_json(file: str, value: Any) -> None:
    """One JSON document into a file, or, for -, on standard output."""
    if file == "-":
        show_json(value)
        return
    with storage(Path(file)):
        write_text(Path(file), json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def show_prediction(out: Console, prediction: StagePrediction, new: bool, fit: Fit) -> None:
    """What was written down of a stage."""
    rows = [
        [
            row.rung,
            row.budget,
            count(row.d),
            f"{row.d / row.n:.3g}",
            f"{row.loss_nats:.4f}",
            interval(row.run_interval, 4),
        ]
        for row in prediction.observations
    ]
    when = "made before its first attempt" if prediction.prior else "made after it began"
    title = f"prediction of stage {prediction.stage}, {when}"
    columns = ["rung", "budget", "tokens", "tokens/N", "loss (nats)", "95 % interval of a run"]
    out.print(table(title, columns, rows, 2, out.width, ("budget", "tokens/N")))
    show_widest(out, [row.parts for row in prediction.observations])
    if note := record_note(fit):
        out.print(f"  {YELLOW}{note}{END}")
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
        measured = [s for s in scored if s.error is not None]
        if measured:
            worst = max(abs(s.error) for s in measured if s.error is not None)
            inside = sum(bool(s.inside) for s in measured)
            out.print(
                f"  largest error {worst:.2%} over {len(measured)} budgets; "
                f"{inside} of {len(measured)} inside their interval"
            )
        show_widest(out, [s.parts for s in scored])
        out.print()


def score_json(scores: dict[str, list[Scored]]) -> dict[str, Any]:
    """The same facts."""
    return {
        stage: [{**dataclasses.asdict(s), "error": s.error, "inside": s.inside} for s in scored]
        for stage, scored in scores.items()
    }


def show_recipe(out: Console, recipe: Recipe, fit: Fit) -> None:
    """The run to train."""
    shape, accounting = recipe.shape, fit.accounting
    rates = ", ".join(f"{kind} {rate:.3g}" for kind, rate in recipe.class_lr.items() if "gain" not in kind)
    rows = [
        ["shape", f"{shape.name}: {shape.n_heads} heads of {shape.head_size}, d_ff {shape.d_ff}"],
        ["parameters", f"{count(recipe.n)} ({accounting.get('parameters')})"],
        ["tokens", f"{count(recipe.d)}, {recipe.d / recipe.n:.3g} a parameter"],
        ["FLOPs", f"{flops(recipe.flops)} ({accounting.get('flops')}), {flops(recipe.flops_exact)} exact"],
        ["learning rate", f"{recipe.lr:.4g} at the base shape; here {rates}"],
        ["batch", f"{count(recipe.batch_tokens)} tokens, {recipe.steps} steps"],
        [
            "loss",
            f"{recipe.loss_nats.value:.4f} nats, {interval(recipe.loss_nats.run_interval, 4)} for a run",
        ],
    ]
    if recipe.optimum:
        n, d = recipe.optimum["n"], recipe.optimum["d"]
        rows.append(["N* by the law", f"{count(n.value)}, {count(n.interval[0])} to {count(n.interval[1])}"])
        rows.append(["D* by the law", f"{count(d.value)}, {count(d.interval[0])} to {count(d.interval[1])}"])
    if recipe.device_hours is not None:
        rows.append(["device time", duration(recipe.device_hours * 3600)])
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        grid.add_row(*row)
    out.print(grid)
    where = f" where {fit.protocol['where']}" if fit.protocol.get("where") else ""
    out.print(f"  by the {fit.law} law of {len(fit.rows_used)} runs{where}")
    if recipe.beyond > 1:
        out.print(
            f"  {YELLOW}{recipe.beyond:.3g} times the FLOPs of the largest run planned: extrapolated{END}"
        )
    if recipe.loss_nats.parts is not None:
        out.print(f"  its interval is made of: {made_of(recipe.loss_nats.parts)}")
    flags = [f"the law's flag {flag}" for flag in fit.flags if not flag.startswith(BAD_RECORD)]
    for note in filter(None, (*recipe.notes, record_note(fit), *flags)):
        out.print(f"  {YELLOW}{note}{END}")


def recipe_json(recipe: Recipe, fit: Fit) -> dict[str, Any]:
    """The same facts."""
    law = {
        "law": fit.law,
        "runs": len(fit.rows_used),
        "where": fit.protocol.get("where"),
        "flags": fit.flags,
    }
    return {**dataclasses.asdict(recipe), "by": law}
