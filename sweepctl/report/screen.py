"""The whole sweep on one screen: plan, results, laws, prediction against measurement, files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from rich.padding import Padding

from sweepctl.laws.fit import Fit
from sweepctl.laws.registry import LAWS
from sweepctl.plan.cost import by_rung, cost_of_plans, total
from sweepctl.plan.plan import Plan
from sweepctl.predict.carried import CarriedSetting
from sweepctl.predict.stage import Scored
from sweepctl.report.console import (
    BOLD,
    END,
    YELLOW,
    count,
    flops,
    interval,
    many,
    percent,
    place,
    shown,
    table,
)
from sweepctl.report.fit import estimate, fit_json, score_json
from sweepctl.report.plan import between, cost_words, taken_words
from sweepctl.report.record import show_widest
from sweepctl.report.seams import show_seams
from sweepctl.store.workspace import Sweep


@dataclass(frozen=True)
class Findings:
    """Everything the screen shows."""

    sweep: Sweep
    """The sweep."""
    plans: dict[str, Plan]
    """Its plans by stage."""
    runs: pd.DataFrame
    """Its table of runs."""
    fits: dict[str, Fit]
    """Its fits by law."""
    scores: dict[str, list[Scored]]
    """Its predictions by stage, with what was measured."""
    files: list[str]
    """The files beside its plans."""
    seams: dict[str, int]
    """How jobs were computed otherwise than what they went on from, and how many."""
    carried: list[CarriedSetting]
    """What probes measured."""


def show_screen(out: Console, findings: Findings) -> None:
    """Print it."""
    _show_plan(out, findings)
    _show_results(out, findings)
    show_seams(out, findings.seams)
    _show_laws(out, findings)
    _show_scores(out, findings.scores)
    out.print(f"{BOLD}files{END} in {place(findings.sweep.results)}: {', '.join(findings.files)}")


def _show_plan(out: Console, findings: Findings) -> None:
    rows = []
    counted = next(iter(findings.plans.values())).accounting.parameters.replace("_", " ")
    for stage, plan in findings.plans.items():
        for rung, _, cost in by_rung(plan):
            rows.append(
                [
                    stage,
                    rung.name,
                    count(rung.counts.non_embedding if counted == "total" else rung.counts.total),
                    count(rung.counts.parameters(plan.accounting.parameters)),
                    count(cost.tokens),
                    flops(cost.flops_exact),
                    str(cost.jobs),
                    f"{cost.saving:.2f}x",
                ]
            )
    other = "N hidden" if counted == "total" else "N total"
    columns = [
        "stage",
        "rung",
        other,
        f"N {counted}",
        "tokens trained",
        "FLOPs exact",
        "jobs",
        "forking saves",
    ]
    out.print(table(f"{findings.sweep.name}: the plan", columns, rows, left=2))
    cost = cost_of_plans(findings.plans.values())
    out.print(
        f"  {cost.jobs} jobs train {count(cost.tokens)} tokens for {cost.observations} budgets; from scratch "
        f"{count(cost.tokens_from_scratch)}: {BOLD}{cost.saving:.2f}x{END} fewer"
    )
    for stage, plan in findings.plans.items():
        for taken in plan.taken:
            edge = f" {YELLOW}at an edge of its grid{END}" * taken.at_edge
            out.print(f"  stage {stage}: {taken_words(taken)}, chosen by stage {taken.stage}{edge}")
    for probe in findings.carried:
        own = f"{probe.optimum.value:.3g} ({between(probe.optimum.interval)})"
        out.print(
            f"  stage {probe.stage}: {probe.field} = {shown(probe.value)} carried to {probe.rung} costs "
            f"{cost_words(probe.cost, probe.interval)} at {count(probe.tokens)} tokens; its own optimum {own}"
        )
    out.print()


def _show_results(out: Console, findings: Findings) -> None:
    runs = findings.runs[findings.runs["for_fit"]] if findings.runs["for_fit"].any() else findings.runs
    done = runs[runs["state"] == "done"].sort_values(["d_model", "tokens"])
    out.print(f"{BOLD}losses{END} (tokens: nats a token on the held-out set)")
    settings = [str(c) for c in done.columns if str(c).startswith("setting_") and done[c].nunique() > 1]
    for key, group in done.groupby(["rung", *settings], sort=False, dropna=False):
        rung, *values = key if isinstance(key, tuple) else (key,)
        names = [f"{c.rpartition('.')[2]}={shown(v)}" for c, v in zip(settings, values, strict=True)]
        pairs = zip(group["tokens"], group["loss_nats"], strict=True)
        losses = "  ".join(f"{count(tokens)}: {loss:.3f}" for tokens, loss in pairs)
        out.print(Padding(f"{' '.join([str(rung), *names])}  {losses}", (0, 0, 0, 2)))
    if done.empty:
        out.print("  none yet")
    out.print()
    other = runs[runs["state"] != "done"]["state"].value_counts()
    if len(other):
        out.print("  " + ", ".join(f"{number} {state}" for state, number in other.items()))


def _show_laws(out: Console, findings: Findings) -> None:
    fits = findings.fits
    if not fits:
        out.print(f"no law yet; `sweepctl fit {findings.sweep.name}` says what it lacks\n")
        return
    rows = []
    optima = {name: fit for name, fit in fits.items() if name in LAWS and LAWS[name].of_optima}
    for name, fit in fits.items():
        for key in ("E", "alpha", "beta", "a", "b") if name in optima else fit.params:
            value = fit.params.get(key, fit.derived.get(key))
            if value is not None and key in fit.intervals:
                meaning = {"a": "N* ~ C^a", "b": "D* ~ C^b"}.get(key, key) if name in optima else key
                rows.append([name, meaning, *estimate(fit, key, value)])
    stands = ", ".join(f"{name} {len(fit.rows_used)}" for name, fit in fits.items())
    out.print(table("laws", ["law", "", "value", "95 % interval"], rows, left=2))
    out.print(f"  rows they stand on: {stands}")
    both = [fit.intervals["a"] for fit in optima.values() if "a" in fit.intervals]
    if len(both) > 1:
        agree = max(low for low, _ in both) <= min(high for _, high in both)
        out.print(f"  the exponents of N* {'agree' if agree else 'do not agree'} within their intervals")
    records = {name: fit.record_of_backtests() for name, fit in fits.items()}
    tested = [f"{name} {inside} of {judged}" for name, (inside, judged) in records.items() if judged]
    if tested:
        out.print(f"  larger sizes predicted from those below, inside their interval: {', '.join(tested)}")
    flags = [f"{name}: {flag}" for name, fit in fits.items() for flag in fit.flags]
    if flags:
        out.print(f"  {YELLOW}flags: {', '.join(flags)}{END}")
    done = set(findings.runs[(findings.runs["state"] == "done") & findings.runs["for_fit"]]["job"])
    in_fits = {job for fit in fits.values() for row in fit.rows_used for job in row.split()}
    excluded = [row for fit in fits.values() for row in fit.rows_excluded if row.reason != "missing"]
    in_fits |= {job for row in excluded for job in row.row.split()}
    if done - in_fits and not any(fit.protocol.get("where") for fit in fits.values()):
        later = many(len(done - in_fits), "run")
        out.print(f"  {later} came after this fit; `sweepctl fit {findings.sweep.name}` takes them in")
    out.print()


def _show_scores(out: Console, scores: dict[str, list[Scored]]) -> None:
    for stage, scored in scores.items():
        rows = [
            [
                s.rung,
                count(s.d),
                f"{s.d / s.n:.3g}",
                f"{s.predicted:.4f}",
                interval((s.low, s.high), 4),
                f"{s.measured:.4f}" if s.measured else "not yet",
                percent(s.error) if s.error is not None else "",
            ]
            for s in scored
        ]
        columns = ["rung", "tokens", "tokens/N", "predicted", "95 % interval", "measured", "error"]
        out.print(table(f"stage {stage}, predicted before it began", columns, rows))
        show_widest(out, [s.parts for s in scored])
    judged = [s.inside for scored in scores.values() for s in scored if s.inside is not None]
    if judged:
        out.print(f"  predicted before they were trained: {len(judged)} runs, {sum(judged)} inside\n")


def screen_json(findings: Findings) -> dict[str, Any]:
    """The same facts."""
    every_stage = cost_of_plans(findings.plans.values())
    return {
        "sweep": findings.sweep.name,
        "folder": str(findings.sweep.results),
        "files": findings.files,
        "cost": {
            stage: {"tokens": (cost := total(plan)).tokens, "saving": cost.saving, "jobs": cost.jobs}
            for stage, plan in findings.plans.items()
        },
        "whole": {"tokens": every_stage.tokens, "saving": every_stage.saving},
        "runs": findings.runs.astype(object).where(findings.runs.notna(), None).to_dict(orient="records"),
        "mixed": findings.seams,
        "fits": {name: fit_json(fit) for name, fit in findings.fits.items()},
        "scores": score_json(findings.scores),
        "carried": [asdict(probe) for probe in findings.carried],
    }
