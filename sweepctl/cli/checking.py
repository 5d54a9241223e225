"""`sweepctl check NAME`: is what a plan builds on right, before money is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweepctl.cli.app import AsJson, ConfigDir, Overrides, check_app, drawable
from sweepctl.errors import InvalidValue

if TYPE_CHECKING:
    from sweepctl.data.shards import CorpusIndex
    from sweepctl.launch.doctor import Finding
    from sweepctl.spec.execution import Execution
    from sweepctl.spec.study import Study
    from sweepctl.store.workspace import Workspace


@check_app.command()
def coordinates(
    overrides: Overrides = None,
    widths: Annotated[str | None, typer.Option(help="d_model of each model, e.g. 32,64,128,256.")] = None,
    depths: Annotated[
        str | None, typer.Option(help="Its layers: one number, or several for a check against depth.")
    ] = None,
    steps: Annotated[str, typer.Option(help="Updates after which to look.")] = "1,2,4,8",
    seeds: Annotated[int, typer.Option(help="Models of each size; more are made while it is unclear.")] = 3,
    png: Annotated[Path | None, typer.Option(help="Draw it into this file.")] = None,
    on: Annotated[str, typer.Option(help="Which machine's execution.* settings.")] = "local",
    config_dir: ConfigDir = None,
    as_json: AsJson = False,
) -> None:
    """Do activations and updates keep their size as the model grows? Trains the study's own, small, briefly.

    Exit code 0 where all that is hidden is flat, 1 where something is not; the verdict is kept for
    `launch --require-check`.
    """
    from sweepctl.check import coordinates as check
    from sweepctl.check.verdicts import keep, record_path
    from sweepctl.report.checks import ProgressLine, show_coordinates
    from sweepctl.report.console import show_json

    drawable(png)
    workspace, study, index, execution = _checked(overrides, config_dir, on)
    request = check.request_of(
        study, _numbers("--widths", widths), _numbers("--depths", depths), _numbers("--steps", steps), seeds
    )
    with ProgressLine(as_json).shown() as progress:
        result = check.check(workspace, study, index, request, execution, progress.models)
    path = record_path(workspace, result.recipe, request.axis)
    keep(path, result.record())
    if png is not None:
        from sweepctl.report.coordinates_picture import draw_coordinates

        draw_coordinates(png, result)
    show_json(result.record()) if as_json else show_coordinates(result, path, png)
    raise SystemExit(0 if result.holds else 1)


@check_app.command()
def fork(
    overrides: Overrides = None,
    rung: Annotated[
        int | None, typer.Option(help="Its place in the ladder, from 0; by default the smallest.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates of the budget (60).")] = None,
    on: Annotated[str, typer.Option(help="Which machine's execution.* settings.")] = "local",
    config_dir: ConfigDir = None,
    as_json: AsJson = False,
) -> None:
    """Is a branch the straight run, and a resumed run an undisturbed one? Trains each, in a store of its own.

    In fp32 on a CPU, bit for bit; else no further apart than two equal runs are.
    """
    from sweepctl.check import fork as check
    from sweepctl.report.checks import ProgressLine, show_fork
    from sweepctl.report.console import show_json

    workspace, study, index, execution = _checked(overrides, config_dir, on)
    with ProgressLine(as_json).shown() as progress:
        result = check.check(workspace, study, index.facts, rung, steps, execution, progress.say)
    show_json(result.record()) if as_json else show_fork(result)
    raise SystemExit(0 if result.holds else 1)


@check_app.command()
def data(
    overrides: Overrides = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens of held-out text to look for in train (256, or the context).")
    ] = None,
    leak: Annotated[float, typer.Option(help="The share of such windows that may lie in train.")] = 0.05,
    passes: Annotated[float, typer.Option(help="How often the longest run may read the data.")] = 1.0,
    config_dir: ConfigDir = None,
    as_json: AsJson = False,
) -> None:
    """Are the shards what was prepared, is held-out text kept apart, and are there tokens enough?"""
    from sweepctl.check.data import DataLimits, examine, window_of
    from sweepctl.launch.stages import plan_stages
    from sweepctl.report.checks import show_findings
    from sweepctl.report.console import show_json
    from sweepctl.report.doctor import findings_json

    workspace, study, index, _ = _checked(overrides, config_dir, "local")
    limits = DataLimits(window_of(index, study.batch.context, window), leak, passes)
    plans, waiting = plan_stages(workspace, study, index.facts)

    def findings(say: Callable[[str], None]) -> Iterator[Finding]:
        folder = workspace.corpus(study.data.name)
        return examine(folder, index, study.batch.context, plans.values(), waiting, limits, say)

    if as_json:
        record = findings_json(list(findings(lambda text: None)))
        holds = not record["failed"]
        show_json({"check": "data", "holds": holds, "findings": record["findings"]})
    else:
        holds = show_findings("data", findings)
    raise SystemExit(0 if holds else 1)


@check_app.command("table")
def check_table(
    parametrization: Annotated[str, typer.Argument(help="A choice of the group parametrization.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="More widths, and Hydra overrides as of plan.")
    ] = None,
    d: Annotated[list[str] | None, typer.Option("--d", help="Widths, e.g. --d 256 1024.")] = None,
    layers: Annotated[int | None, typer.Option(help="Depth; the base shape's by default.")] = None,
    vocab_size: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 256,
    config_dir: ConfigDir = None,
    as_json: AsJson = False,
) -> None:
    """Print a parametrization as its paper's table: formulas by class of tensors, and numbers at widths.

    Values are the parametrization's own; with study=NAME they are the study's.
    """
    from sweepctl.report.console import console, show_json
    from sweepctl.report.parametrization import numbers_at, shapes_of, show_table, table_json
    from sweepctl.spec.compose import compose_study

    if vocab_size < 1:
        raise InvalidValue("--vocab-size", vocab_size, "at least 1")
    words = overrides or []
    widths = [_width(text) for entry in d or () for text in entry.split(",")]
    widths += [int(text) for text in words if text.isdecimal()]
    twice = next((text for text in words if text.startswith("parametrization=")), None)
    if twice is not None:
        raise InvalidValue("parametrization", twice.partition("=")[2], f"{parametrization}, as the table's")
    settings = [f"parametrization={parametrization}", *(text for text in words if not text.isdecimal())]
    if not any(text.startswith("study=") for text in settings):
        settings = ["~study", "+name=table", *settings]
    study = compose_study(settings, config_dir)
    base = study.parametrization.base_d_model
    shapes = shapes_of(study, widths or [base, 4 * base], layers)
    every = [numbers_at(study, shape, vocab_size) for shape in shapes]
    if as_json:
        show_json(table_json(parametrization, study, every))
    else:
        show_table(console(), parametrization, study, every)


def _width(text: str) -> int:
    if not text.strip().isdecimal():
        raise InvalidValue("--d", text, "a width, or several with commas or spaces between them")
    return int(text)


def _checked(
    overrides: list[str] | None, config_dir: Path | None, on: str
) -> tuple[Workspace, Study, CorpusIndex, Execution]:
    """The workspace, the study and its data, and how this machine trains: overrides that begin with
    `execution.` are the launcher's."""
    from sweepctl.data.corpora import ensure
    from sweepctl.launch.launcher import read_launcher
    from sweepctl.spec.compose import compose_launcher, compose_study
    from sweepctl.store.workspace import Workspace

    overrides = overrides or []
    own = [text for text in overrides if text.startswith("execution.")]
    study = compose_study([text for text in overrides if text not in own], config_dir)
    launcher = read_launcher(on, compose_launcher(on, own, config_dir))
    workspace = Workspace.default()
    return workspace, study, ensure(workspace, study.data), launcher.execution


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    try:
        return () if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidValue(option, text, "whole numbers, separated by commas") from None
