"""The command that fits laws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from sweepctl.cli.app import OutFolder, app, drawable, writable
from sweepctl.errors import RequestError

Column = Annotated[str | None, typer.Option(metavar="COL", rich_help_panel="Columns of a table")]


class _JsonWhere(TyperCommand):
    """--json alone is --json -, as other commands have it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        whole: list[str] = []
        for place, word in enumerate(args):
            whole.append(word)
            after = args[place + 1] if place + 1 < len(args) else "--"
            if word == "--json" and after.startswith("-") and after != "-":
                whole.append("-")
        return super().parse_args(ctx, whole)


@app.command(cls=_JsonWhere)
def fit(
    source: Annotated[str | None, typer.Argument(help="A sweep, or a CSV or Parquet table.")] = None,
    law: Annotated[str, typer.Option(help="A law's name (--list), or all: parametric and isoflop.")] = "all",
    option: Annotated[list[str] | None, typer.Option(help="key=value of the law (repeatable).")] = None,
    where: Annotated[str | None, typer.Option(help="A condition on columns that rows must meet.")] = None,
    at: Annotated[list[str] | None, typer.Option(help="Predict: flops=1e21, or n=7e9,d=2e12.")] = None,
    hold_out: Annotated[str | None, typer.Option(help="flops=K, n=K or d=K: predict the K largest.")] = None,
    rolling: Annotated[bool, typer.Option(help="Hold out every level in turn.")] = False,
    accounting: Annotated[str | None, typer.Option(help="PARAMETERS/FLOPS, or all to compare.")] = None,
    reduce: Annotated[str, typer.Option(help="Runs at equal N and D: best, mean or none.")] = "best",
    undecayed: Annotated[bool, typer.Option(help="Let losses through that were not annealed.")] = False,
    png: Annotated[Path | None, typer.Option(help="Draw the fit.")] = None,
    out: OutFolder = None,
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE|-", help="Write JSON.")] = None,
    list_laws: Annotated[bool, typer.Option("--list", help="Name the laws and their options.")] = False,
    n: Column = None,
    d: Column = None,
    flops: Column = None,
    loss: Column = None,
    lr: Column = None,
    batch: Column = None,
    steps: Column = None,
    step: Column = None,
    group: Column = None,
    run: Column = None,
    trunk: Column = None,
    role: Column = None,
    parent: Column = None,
    task_loss: Column = None,
    accuracy: Column = None,
    error: Column = None,
    row: Column = None,
) -> None:
    """Fit scaling laws, with intervals, to a sweep's results or to a table.

    COL is a column, or an expression of columns such as "batch_seqs * 2048".
    """
    from sweepctl.fitting.observations import TableReading
    from sweepctl.fitting.request import FitRequest, answer, read_accounting, read_hold_out
    from sweepctl.fitting.saved import save
    from sweepctl.report.console import console
    from sweepctl.report.fit import fit_json, show_fit, show_laws, write_fit_json

    if list_laws:
        show_laws(console(), json_file)
        return
    if source is None:
        raise RequestError("Say what to fit: a sweep, or a .csv or .parquet table.")
    if reduce not in ("best", "mean", "none"):
        raise RequestError(f"--reduce {reduce} is not valid: best, mean or none.")
    if rolling and hold_out is None:
        raise RequestError("--rolling goes with --hold-out, which says what is held out.")
    writable("--json", None if json_file is None else Path(json_file))
    drawable(png)
    named = {
        "n": n, "d": d, "flops": flops, "loss": loss, "lr": lr, "batch": batch, "steps": steps, "step": step,
        "group": group, "run": run, "trunk": trunk, "role": role, "parent": parent, "task_loss": task_loss,
        "accuracy": accuracy, "error": error,
    }  # fmt: skip
    columns = {key: column for key, column in named.items() if column is not None}
    every = accounting == "all"
    request = FitRequest(
        source=source,
        law=law,
        options=tuple(option or []),
        reading=TableReading(columns, row, reduce, undecayed),  # type: ignore[arg-type]
        out=out,
        where=where,
        targets=tuple(at or []),
        hold_out=None if hold_out is None else read_hold_out(hold_out, rolling),
        accounting=None if accounting is None or every else read_accounting(accounting),
        every_accounting=every,
    )
    answered = answer(request)
    fits = answered.fits
    if answered.sweep is not None:
        for of_law in fits.values():
            save(answered.sweep, of_law)
    if png is not None:
        from sweepctl.report.laws import draw

        draw(png, list(fits.values()))
    if json_file is not None:
        shown = {name: fit_json(of_law) for name, of_law in fits.items()}
        write_fit_json(json_file, {**shown, "refused": answered.refused} if law == "all" else shown[law])
    if json_file == "-":
        return
    for of_law in fits.values():
        show_fit(console(), of_law)
    for name, reason in answered.refused.items():
        console().print(f"no {name} law: {reason}")
