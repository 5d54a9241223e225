"""How a script starts Python."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def python_command(python: str | None) -> str:
    """The interpreter, or the command line that starts one (`apptainer exec image.sif python`), for a shell;
    what is the path of a file is one word."""
    if python is None or Path(python).exists():
        return shlex.quote(python or sys.executable)
    return python
