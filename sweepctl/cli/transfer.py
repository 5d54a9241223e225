"""`sweepctl check transfer`: a table of learning rates that are trained here, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweepctl.cli.app import AsJson, ConfigDir, Overrides, check_app, drawable

if TYPE_CHECKING:
    from sweepctl.check.transfer import RowPlan, TransferRow
    from sweepctl.launch.local import LocalSettings
    from sweepctl.store.workspace import Workspace


@check_app.command()
def transfer(
    overrides: Overrides = None,
    rows: Annotated[
        str | None, typer.Option(help="Rows of the table, with commas, or all. By default mup,standard.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of every cell; more of them narrow the intervals.")] = 2,
    list_rows: Annotated[
        bool, typer.Option("--list", help="Name the rows and what is left to train of each; train nothing.")
    ] = False,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Write the plans and judge what is there; train nothing.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes that train, as in launch.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the losses into this file.")] = None,
    config_dir: ConfigDir = None,
    as_json: AsJson = False,
) -> None:
    """Does the best learning rate of a narrow model stay the best of wider ones: widths x rates x ablations.

    Every row is a sweep of its own (transfer-mup, ...) that `launch`, `status` and the other commands take
    too; what the store has is not trained again. Exit code 0 where every row that should transfer does.
    """
    from sweepctl.check.transfer import DEFAULT, ROWS, left, read_row, rows_named
    from sweepctl.launch.defaults import build_settings
    from sweepctl.launch.local import LocalSettings, visible_gpus, worker_count
    from sweepctl.plan.cost import sum_costs
    from sweepctl.report import transfer as report
    from sweepctl.report.console import console, place, show_json
    from sweepctl.spec.compose import compose_launcher
    from sweepctl.store.throughput import measured
    from sweepctl.store.workspace import Workspace

    drawable(png)
    config = build_settings(LocalSettings, {**compose_launcher("local", []), "workers": workers})
    chosen = (
        rows_named(rows) if rows is not None else [ROWS[name] for name in (ROWS if list_rows else DEFAULT)]
    )
    workspace = Workspace.default()
    planned = _plan_rows(workspace, chosen, seeds, overrides or [], config_dir)
    costs = {row_plan.row.name: left(row_plan) for row_plan in planned}
    plans = {
        f"{row_plan.row.name} {stage}": plan for row_plan in planned for stage, plan in row_plan.plans.items()
    }
    rates, out = measured(workspace, plans), console()
    number = worker_count(config, len(visible_gpus()))
    if list_rows:
        show_json(report.plan_json(planned, costs)) if as_json else report.show_rows(
            out, costs, rates, number
        )
        return
    for row_plan in planned:
        row_plan.sweep.save(row_plan.plans)
    if not as_json:
        out.print(f"{', '.join(costs)}: {report.estimate(sum_costs(costs.values()), rates, number)}.")
    if not plan_only:
        _train_rows(planned, config, as_json)
    results = [read_row(row_plan) for row_plan in planned]
    show_json(report.transfer_json(results)) if as_json else report.show_transfer(out, results)
    if png is not None:
        report.draw_transfer(png, results)
        if not as_json:
            out.print(f"Drawn into {place(png.absolute())}.")
    if not plan_only and not all(result.holds for result in results):
        raise SystemExit(1)


def _plan_rows(
    workspace: Workspace, rows: list[TransferRow], seeds: int, overrides: list[str], config_dir: Path | None
) -> list[RowPlan]:
    """The rows' plans, their data made where it is built in; nothing else is written."""
    from sweepctl.check.transfer import plan_row, row_study
    from sweepctl.data.corpora import ensure
    from sweepctl.data.shards import check_context

    planned = []
    for row in rows:
        study = row_study(row, seeds, overrides, config_dir)
        index = ensure(workspace, study.data)
        check_context(workspace.corpus(study.data.name), index, study.batch.context)
        planned.append(plan_row(workspace, row, study, index.facts))
    return planned


def _train_rows(planned: list[RowPlan], config: LocalSettings, quiet: bool) -> None:
    """Train what the rows lack, one after the other; ends the command where it was stopped."""
    from sweepctl.check.transfer import train
    from sweepctl.launch.prepare import launchable
    from sweepctl.report.console import BOLD, END, console
    from sweepctl.report.launch_view import LaunchView, show_outcome

    out = console()
    for row_plan in planned:
        sweep_jobs, _ = launchable(row_plan.sweep)
        if not any(sweep_jobs.unfinished()):
            continue
        if not quiet:
            out.print(f"{BOLD}{row_plan.sweep.name}{END}")
        with LaunchView(sweep_jobs, None if quiet else out) as view:
            done = train(row_plan, config, sweep_jobs, view)
        if not quiet and (done.stopped or done.failed or done.blocked or done.cancelled):
            show_outcome(out, sweep_jobs, [], done)
        if done.stopped:
            raise SystemExit(130)
