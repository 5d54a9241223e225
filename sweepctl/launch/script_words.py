"""Words of a shell in the scripts that are submitted."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from sweepctl.launch.variables import REFERENCE

_NO_REFERENCE = re.compile(r'["`\\]|\$(?![A-Za-z_]|\{[A-Za-z_]\w*\})')


def python_command(python: str | None) -> str:
    """The interpreter, or the command line that starts one (`apptainer exec image.sif python`), for a shell;
    what is the path of a file is one word."""
    if python is None or Path(python).exists():
        return shlex.quote(python or sys.executable)
    return python


def shell_word(text: str) -> str:
    """One word for a shell, in which it expands $NAME and ${NAME} and nothing else."""
    if not REFERENCE.search(text):
        return shlex.quote(text)
    return '"' + _NO_REFERENCE.sub(r"\\\g<0>", text) + '"'
