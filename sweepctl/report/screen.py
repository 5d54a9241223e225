"""The whole sweep on one screen: plan, results, laws, prediction against measurement, files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from rich.padding import Padding

from sweepctl.laws.law import Fit
from sweepctl.plan.cost import by_rung, total, whole
from sweepctl.plan.plan import Plan
from sweepctl.predict.stage import Scored
from sweepctl.report.console import count, flops, many, percent, place, shown, table
from sweepctl.report.fit import estimate
from sweepctl.store.workspace import Sweep


@dataclass(frozen=True)
class Findings:
    """Everything the screen shows."""

    sweep: Sweep
    plans: dict[str, Plan]
    runs: pd.DataFrame
    fits: dict[str, Fit]
    scores: dict[str, list[Scored]]
    files: list[str]


def show_screen(out: Console, found: Findings) -> None:
    """Print it."""
    _show_plan(out, found)
    _show_results(out, found)
    _show_laws(out, found)
    _show_scores(out, found.scores)
    out.print(f"[bold]files[/] in {place(found.sweep.folder)}: {', '.join(found.files)}")


def _show_plan(out: Console, found: Findings) -> None:
    rows = []
    counted = next(iter(found.plans.values())).accounting.parameters.replace("_", " ")
    for stage, plan in found.plans.items():
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
    out.print(table(f"{found.sweep.name}: the plan", columns, rows, left=2))
    cost = whole(found.plans.values())
    out.print(
        f"  {cost.jobs} jobs train {count(cost.tokens)} tokens for {cost.observations} budgets; from scratch "
        f"{count(cost.tokens_from_scratch)}: [bold]{cost.saving:.2f}x[/] fewer"
    )
    for stage, plan in found.plans.items():
        for taken in plan.taken:
            edge = " [yellow]at an edge of its grid[/]" * taken.at_edge
            out.print(
                f"  stage {stage}: {taken.field} = {shown(taken.value)}, chosen by stage {taken.stage}{edge}"
            )
    out.print()


def _show_results(out: Console, found: Findings) -> None:
    runs = found.runs[found.runs["for_fit"]] if found.runs["for_fit"].any() else found.runs
    done = runs[runs["state"] == "done"].sort_values(["d_model", "tokens"])
    out.print("[bold]losses[/] (tokens: nats a token on the held-out set)")
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


OF_OPTIMA = ("isoflop", "parametric", "envelope")
"""Laws whose a and b are the exponents of N*(C) and D*(C)."""


def _show_laws(out: Console, found: Findings) -> None:
    fits = found.fits
    if not fits:
        out.print(f"no law yet; `sweepctl fit {found.sweep.name}` says what it lacks\n")
        return
    rows = []
    optima = {name: made for name, made in fits.items() if name in OF_OPTIMA}
    for name, made in fits.items():
        for key in ("E", "alpha", "beta", "a", "b") if name in optima else made.params:
            value = made.params.get(key, made.derived.get(key))
            if value is not None and key in made.intervals:
                meaning = {"a": "N* ~ C^a", "b": "D* ~ C^b"}.get(key, key) if name in optima else key
                rows.append([name, meaning, *estimate(made, key, value)])
    stands = ", ".join(f"{name} {len(made.rows_used)}" for name, made in fits.items())
    out.print(table("laws", ["law", "", "value", "95 % interval"], rows, left=2))
    out.print(f"  rows they stand on: {stands}")
    both = [made.intervals["a"] for made in optima.values() if "a" in made.intervals]
    if len(both) > 1:
        agree = max(low for low, _ in both) <= min(high for _, high in both)
        out.print(f"  the exponents of N* {'agree' if agree else 'do not agree'} within their intervals")
    flags = [f"{name}: {flag}" for name, made in fits.items() for flag in made.flags]
    if flags:
        out.print(f"  [yellow]flags: {', '.join(flags)}[/]")
    done = set(found.runs[(found.runs["state"] == "done") & found.runs["for_fit"]]["job"])
    seen = {job for made in fits.values() for row in made.rows_used for job in row.split()}
    excluded = [row for made in fits.values() for row in made.rows_excluded if row["reason"] != "missing"]
    seen |= {job for row in excluded for job in row["row"].split()}
    if done - seen and not any(made.protocol.get("where") for made in fits.values()):
        later = many(len(done - seen), "run")
        out.print(f"  {later} came after this fit; `sweepctl fit {found.sweep.name}` takes them in")
    out.print()


def _show_scores(out: Console, scores: dict[str, list[Scored]]) -> None:
    for stage, scored in scores.items():
        rows = [
            [
                s.rung,
                count(s.d),
                f"{s.d / s.n:.3g}",
                f"{s.predicted:.4f}",
                f"{s.low:.4f} to {s.high:.4f}",
                f"{s.measured:.4f}" if s.measured else "not yet",
                percent(s.error) if s.error is not None else "",
            ]
            for s in scored
        ]
        columns = ["rung", "tokens", "tokens/N", "predicted", "95 % interval", "measured", "error"]
        out.print(table(f"stage {stage}, predicted before it began", columns, rows))


def screen_json(found: Findings) -> dict[str, Any]:
    """The same facts."""
    from sweepctl.report.fit import fit_json, score_json

    return {
        "sweep": found.sweep.name,
        "folder": str(found.sweep.folder),
        "files": found.files,
        "cost": {
            stage: {"tokens": (cost := total(plan)).tokens, "saving": cost.saving, "jobs": cost.jobs}
            for stage, plan in found.plans.items()
        },
        "whole": {"tokens": (all_of_it := whole(found.plans.values())).tokens, "saving": all_of_it.saving},
        "runs": found.runs.astype(object).where(found.runs.notna(), None).to_dict(orient="records"),
        "fits": {name: fit_json(made) for name, made in found.fits.items()},
        "scores": score_json(found.scores),
    }
