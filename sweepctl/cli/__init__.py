"""The commands: each finds its input, calls one function, and shows what came back.

Imports of anything slow (Hydra, pandas, torch) happen inside the commands that need them, so that
`--help` and `status` answer at once.
"""

from __future__ import annotations

import io
import os
import sys

# isort: off
from sweepctl.cli import planning, checking, transfer, running, fitting, results  # the order of --help

# isort: on
from sweepctl.cli.app import app
from sweepctl.errors import SweepctlError

__all__ = ["app", "checking", "fitting", "main", "planning", "results", "running", "transfer"]


def main() -> None:
    """Run a command; every foreseen error is one sentence and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an old locale has no word for some letters
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SweepctlError as error:
        _say(str(error))
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"{where}{error.strerror or error}.")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _say(sentence: str) -> None:
    from sweepctl.report.console import printable

    print(f"sweepctl: {printable(sentence)}", file=sys.stderr)
