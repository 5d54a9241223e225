"""The application, and the options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweepctl import __version__
from sweepctl.errors import RequestError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Plan, train, fit and predict LLM scaling sweeps: one trunk, many budgets.",
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare token shards.")
app.add_typer(data_app, name="data")
check_app = typer.Typer(no_args_is_help=True, help="Check what a plan builds on, before money is spent.")
app.add_typer(check_app, name="check")

Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides: key=value, group=option.")]
SweepName = Annotated[str, typer.Argument(help="A sweep of the workspace.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
OutFolder = Annotated[
    Path | None, typer.Option(help="Where results go, in place of the sweep's folder (FOLDER/fits, ...).")
]
ConfigDir = Annotated[
    Path | None, typer.Option(help="A directory of your own Hydra groups, ahead of the built-in ones.")
]


def positive(option: str, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise RequestError(f"{option} {value:g} is not valid: it must be a finite number above 0.")


def writable(option: str, path: Path | None) -> None:
    """Raises RequestError where a file could not be written at the end of long work."""
    if path is not None and str(path) != "-" and (not path.parent.is_dir() or path.is_dir()):
        raise RequestError(f"{option} {path} is not valid: it must be a file in a folder that exists.")


def drawable(png: Path | None) -> None:
    """Raises RequestError where a picture could not be."""
    writable("--png", png)
    if png is not None and png.suffix not in (".png", ".svg", ".pdf"):
        raise RequestError(f"--png {png} is not valid: it must end in .png, .svg or .pdf.")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"sweepctl {__version__}")
        raise typer.Exit
