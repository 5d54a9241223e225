"""The plan as a screen and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console

from sweepctl.launch.compare import Comparison
from sweepctl.launch.rates import PlanRates
from sweepctl.launch.stage_values import MissingResults
from sweepctl.plan.alternatives import Alternative, alternatives
from sweepctl.plan.cost import Cost, by_rung, cost_of_plans, most_passes, sum_costs, total
from sweepctl.plan.optimum import FLAGS
from sweepctl.plan.plan import Job, Plan, Rung, Taken
from sweepctl.report.console import BOLD, END, YELLOW, count, duration, flops, many, shown, size, table
from sweepctl.report.device_time import of_costs, of_plan, stage_lines
from sweepctl.report.device_time import total as device_time
from sweepctl.spec.accounting import ParameterCount
from sweepctl.spec.build import plain
from sweepctl.spec.weights import mixers
from sweepctl.store.throughput import Rate


def show_plan(
    out: Console, plans: dict[str, Plan], compared: dict[str, Comparison], waiting: dict[str, MissingResults],
    rates: PlanRates, price: float | None = None,
) -> None:  # fmt: skip
    """Every stage: its rungs and their cost, what exists, what changed, what waits."""
    for stage, plan in plans.items():
        out.print(_stage_table(stage, plan, rates, out.width))
        _show_details(out, plan, compared[stage], rates, price)
    for stage, reason in waiting.items():
        what = f"{reason.missing} of {reason.wanted} runs" if reason.wanted else "its plan"
        out.print(
            f"{BOLD}stage {stage}{END} waits: its {reason.field} comes from stage {reason.stage}, "
            f"which lacks {what}.\n"
        )
    _show_total(out, plans, compared, rates, price)


def _stage_table(stage: str, plan: Plan, rates: PlanRates, width: int) -> Any:
    rows = []
    sparse = any(rung.counts.idle for rung, _, _ in by_rung(plan))
    more: list[ParameterCount] = [n for n in ("total", "active") if sparse and n != _second(plan)]
    for rung, jobs, cost in by_rung(plan):
        ends = sorted({plan.tokens(job) for job in jobs if job.kind != "trunk"})
        parameters = rung.counts.parameters(plan.accounting.parameters)
        spread = f"{ends[0] / parameters:.3g}-{ends[-1] / parameters:.3g}"
        rate = rates.by_rung.get(rung.name)
        rows.append(
            [
                rung.name,
                count(rung.counts.non_embedding),
                count(rung.counts.parameters(_second(plan))),
                *(count(rung.counts.parameters(name)) for name in more),
                str(len(ends)),
                f"{count(ends[0])}-{count(ends[-1])}" if len(ends) > 1 else count(ends[0]),
                spread if len(ends) > 1 else f"{ends[0] / parameters:.3g}",
                str(cost.jobs),
                count(cost.tokens),
                f"{cost.saving:.2f}x",
                flops(cost.flops),
                _device_time(cost, rate),
            ]
        )
    accounting = {"six_n": "6ND", "six_n_attention": "6ND + attention"}.get(plan.accounting.flops, "exact")
    columns = ["rung", "N hidden", *(f"N {name.replace('_', ' ')}" for name in (_second(plan), *more))]
    columns += ["budgets", "tokens", "tokens/N", "jobs", "trained", "forking", f"FLOPs {accounting}", "time"]
    spare = ("N hidden", "budgets", "tokens/N", "forking", "jobs")
    return table(f"stage {stage}", columns, rows, width=width, spare=spare)


def _second(plan: Plan) -> ParameterCount:
    """The count that is shown beside the hidden parameters: the study's own, or all."""
    chosen = plan.accounting.parameters
    return "total" if chosen == "non_embedding" else chosen


def _show_details(
    out: Console, plan: Plan, compared: Comparison, rates: PlanRates, price: float | None
) -> None:
    """What the stage's table does not say: line by line, indented."""
    for note in _notes(plan):
        out.print(f"  {note}")
    out.print(f"  jobs: {compared.exists} there, {compared.begun} begun, {compared.new} new")
    for line in stage_lines(plan, compared, rates, price):
        out.print(f"  {line}")
    if compared.diff is not None:
        diff = compared.diff
        out.print(
            f"  against the plan before: {diff.kept} kept, {diff.added} added, {diff.changed} changed, "
            f"{len(diff.gone) - diff.changed} dropped"
        )
        for change in diff.changes[:8]:
            out.print(f"    {change.field}: {change.old} -> {change.new} ({many(change.jobs, 'job')})")
        if compared.unwanted:
            out.print(
                f"  {YELLOW}{len(compared.unwanted)} jobs in the store are no longer wanted{END}; "
                "`sweepctl clean` shows them"
            )
    out.print()


def _notes(plan: Plan) -> Iterator[str]:
    """What to know of a stage beside its sizes."""
    for taken in plan.taken:
        yield from _taken_notes(taken)
    yield from _settings_notes(plan)
    misses = [plan.tokens(job) / job.requested_tokens - 1 for job in plan.observations()]
    rounded = [miss for miss in misses if abs(miss) > 0.01]
    if rounded:
        most = max(rounded, key=abs)
        yield f"rounding to whole steps moves {len(rounded)} budgets by more than 1 %, at most {most:+.1%}"
    if plan.dropped:
        names = ", ".join(f"{rung} {label}" for rung, label, _ in plan.dropped[:4])
        more = f" and {len(plan.dropped) - 4} more" if len(plan.dropped) > 4 else ""
        yield f"left out by the budget's limits: {names}{more} ({plan.dropped[0][2]})"
    model = plan.base.model
    cut = [rung.name for rung in plan.rungs if set(mixers(rung.shape, model)) < set(model.mixers)]
    if cut:
        yield (
            f"{YELLOW}rungs with fewer layers than the pattern of {len(model.mixers)} mixers lack one of "
            f"its kinds: {', '.join(cut)}{END}"
        )
    passes = most_passes(plan)
    if passes > 1:
        yield f"{YELLOW}the longest run reads its {count(plan.corpus_tokens)} tokens {passes:.2g} times{END}"


def _taken_notes(taken: Taken) -> Iterator[str]:
    """What was taken, how sure it is, and what that means."""
    losses = ", ".join(f"{v}: {loss:.3f} nats" for v, loss in taken.losses.items())
    over = f", the best over {', '.join(taken.best_over)}" if taken.best_over else ""
    yield f"{taken_words(taken)}, the {taken.rule} of stage {taken.stage}{over} ({losses})"
    if taken.factors:
        yield f"probed at {', '.join(f'{factor:g}' for factor in taken.factors)} times that"
    cost = taken.optimum.cost(taken.carried) if taken.optimum and taken.carried is not None else None
    if cost is not None:
        yield f"the carried {shown(taken.carried)} costs {cost_words(cost[0], cost[1:])} there"
    for flag in taken.flags:
        words = FLAGS.get(flag, flag)
        yield f"{YELLOW}{words}{f'; widen stage {taken.stage}' * (flag == 'edge')}{END}"


def taken_words(taken: Taken) -> str:
    """The field and its value, with the interval where a parabola gave it."""
    interval = ""
    if taken.optimum and taken.value == taken.optimum.value and "no_logarithm" not in taken.flags:
        interval = f" ({between(taken.optimum.interval)})"
    return f"{taken.field} = {shown(taken.value)}{interval}"


def cost_words(cost: float, interval: tuple[float, ...]) -> str:
    """A share of the loss with its interval."""
    return f"{cost:.2%} of the loss ({interval[0]:.2%} to {interval[1]:.2%})"


def between(interval: tuple[float | None, float | None]) -> str:
    """An interval whose ends may be open."""
    low, high = interval
    if low is None and high is None:
        return "the grid does not bound it"
    if low is None:
        return f"up to {high:.3g}"
    return f"from {low:.3g}" if high is None else f"{low:.3g} to {high:.3g}"


def _settings_notes(plan: Plan) -> Iterator[str]:
    """In what the stage's points differ."""
    axes = {path for point in plan.points for path in point.settings}
    axes -= {*plan.scaling.fields, "warmup_steps"}  # it follows from the schedule and the batch
    if axes:
        yield f"{len(plan.points)} points over {', '.join(sorted(axes))}"
    for path in plan.scaling.fields:
        by_rung = {point.rung: point.settings[path] for point in plan.points if path in point.settings}
        if by_rung:
            values = ", ".join(_rounded(by_rung[rung]) for rung in sorted(by_rung))
            yield f"{path} by rung, as the scaling rule has it: {values}"


def _show_total(
    out: Console, plans: dict[str, Plan], compared: dict[str, Comparison], rates: PlanRates,
    price: float | None,
) -> None:  # fmt: skip
    if not plans:
        return
    cost = cost_of_plans(plans.values())
    left = sum_costs(c.left for c in compared.values())
    jobs, wanted = many(cost.jobs, "job"), many(cost.observations, "observation")
    out.print(
        f"{BOLD}In all{END} {jobs}, {wanted}: {count(cost.tokens)} tokens, {flops(cost.flops_exact)} exact "
        f"FLOPs. Each budget from scratch would take {count(cost.tokens_from_scratch)} tokens: forking takes "
        f"{BOLD}{cost.saving:.2f}x{END} fewer."
    )
    out.print(
        f"Left to train: {many(left.jobs, 'job')}, {count(left.tokens)} tokens, {flops(left.flops_exact)} "
        f"exact FLOPs. Checkpoints: {cost.checkpoints}, {size(cost.disk_all)} ({size(cost.disk_last)} with "
        "keep=last)."
    )
    if rates.by_rung:
        bound = any(rate.least for rate in rates.by_rung.values())
        between = not all(rate.least or rate.is_measured for rate in rates.by_rung.values())
        out.print(
            f"Device time {rates.provenance}{'; < where only a smaller rung was measured' * bound}"
            f"{'; ~ where other rungs were' * between}."
        )
        whole = device_time(of_plan(plan, rates.by_rung) for plan in plans.values())
        time_left = device_time(of_costs(c.left_by_rung, rates.by_rung) for c in compared.values())
        out.print(f"In all {whole.words(price)}, of which {time_left.words(price)} left.")
    else:
        out.print("Device time: nothing measured yet; state it with --flops-per-s.")
    compared_schedules = alternatives(plans.values(), cost)
    if any(row.cost.tokens < row.cost.tokens_from_scratch for row in compared_schedules):  # else none shares
        out.print()
        out.print(_schedule_table(compared_schedules, out.width))


def _schedule_table(compared: list[Alternative], width: int) -> Any:
    rows = [
        [
            f"{'*' if row.own else ' '} {row.schedule.title}",
            row.schedule.shared,
            str(row.cost.jobs),
            count(row.cost.tokens),
            flops(row.cost.flops_exact),
            f"{row.cost.saving:.2f}x",
        ]
        for row in compared
    ]
    columns = ["* this study", "budgets of a rung share", "jobs", "trained", "FLOPs exact", "fewer"]
    return table("the same budgets under each schedule", columns, rows, 2, width, ("FLOPs exact",))


def _rounded(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plan_json(
    plans: dict[str, Plan], compared: dict[str, Comparison], waiting: dict[str, MissingResults],
    rates: PlanRates, price: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The same facts, and every job."""
    whole = device_time(of_plan(plan, rates.by_rung) for plan in plans.values())
    time_left = device_time(of_costs(c.left_by_rung, rates.by_rung) for c in compared.values())
    schedules = alternatives(plans.values(), cost_of_plans(plans.values())) if plans else []
    return {
        "stages": {stage: _stage_json(plan, compared[stage], rates, price) for stage, plan in plans.items()},
        "device": rates.device,
        "device_time": whole.record(price),
        "device_time_left": time_left.record(price),
        "waiting": {stage: asdict(reason) for stage, reason in waiting.items()},
        "schedules": [_schedule_json(alternative) for alternative in schedules],
    }


def _stage_json(plan: Plan, compared: Comparison, rates: PlanRates, price: float | None) -> dict[str, Any]:
    rungs = [_rung_json(plan, rung, cost, rates.by_rung.get(rung.name)) for rung, _, cost in by_rung(plan)]
    return {
        "hash": plan.hash,
        "accounting": plain(plan.accounting),
        "taken": [{**plain(taken), "at_edge": taken.at_edge, "flags": taken.flags} for taken in plan.taken],
        "dropped": [{"rung": rung, "budget": label, "why": why} for rung, label, why in plan.dropped],
        "exists": compared.exists,
        "begun": compared.begun,
        "new": compared.new,
        "left": _cost_json(compared.left),
        "changed": asdict(compared.diff) if compared.diff else None,
        "unwanted": list(compared.unwanted),
        "passes_over_data": most_passes(plan),
        "schedule": plain(plan.schedule),
        "scaling": plain(plan.scaling),
        "cost": _cost_json(total(plan)),
        "device_time": of_plan(plan, rates.by_rung).record(price),
        "device_time_left": of_costs(compared.left_by_rung, rates.by_rung).record(price),
        "rungs": rungs,
        "jobs": [_job_json(plan, job) for job in plan.jobs],
    }


def _rung_json(plan: Plan, rung: Rung, cost: Cost, rate: Rate | None) -> dict[str, Any]:
    counts = rung.counts
    return {
        "rung": rung.name,
        **plain(rung.shape),
        "parameters": {**plain(counts), "active_non_embedding": counts.active_non_embedding},
        "flops_per_token": counts.flops_per_token(plan.accounting),
        "exact_flops_per_token": counts.exact_flops_per_token,
        "forward_flops_per_token": counts.forward_flops_per_token,
        "decode_flops_per_token": counts.decode_flops_per_token,
        "device_s": _device_s(cost, rate),
        "device_s_is_upper_bound": rate.least if rate else None,
        "device_s_source": rate.source if rate else None,
        **_cost_json(cost),
    }


def _job_json(plan: Plan, job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "rung": plan.rung_of(job).name,
        "settings": plan.points[job.point].settings,
        "trunk": job.trunk,
        "cut_step": job.cut,
        "end_step": job.end,
        "tokens": plan.tokens(job),
        "budget": job.label or None,
        "requested_tokens": job.requested_tokens or None,
    }


def _schedule_json(alternative: Alternative) -> dict[str, Any]:
    schedule, cost = alternative.schedule, alternative.cost
    return {
        **plain(schedule),
        "own": alternative.own,
        "forks": schedule.forks,
        "shared": schedule.shared,
        **{key: getattr(cost, key) for key in ("jobs", "tokens", "tokens_from_scratch")},
        **{key: getattr(cost, key) for key in ("flops", "flops_exact", "saving")},
    }


def _device_s(cost: Cost, rate: Rate | None) -> float | None:
    return rate.device_s(cost) if rate else None


def _device_time(cost: Cost, rate: Rate | None) -> str:
    if rate is None:
        return "-"
    sign = "< " if rate.least else "" if rate.is_measured else "~ "
    return sign + duration(rate.device_s(cost))


def _cost_json(cost: Cost) -> dict[str, Any]:
    return {**asdict(cost), "saving": cost.saving}
