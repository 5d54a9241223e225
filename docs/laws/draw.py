"""Draws the picture of every law's page: `python docs/laws/draw.py [NAME...]`.

Each example makes a table from its law's formula with seeded noise; the command itself fits and draws it.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def main(names: list[str]) -> int:
    """Draw the named examples, or all; the exit code."""
    for example in sorted((HERE / "examples").glob("*.py")):
        name = example.stem.replace("_", "-")
        if names and name not in names:
            continue
        example_names = runpy.run_path(str(example))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.csv"
            example_names["table"]().to_csv(path, index=False)
            command = [sys.executable, "-m", "sweepctl", "fit", str(path), *example_names["ARGUMENTS"]]
            print(" ".join(["sweepctl", "fit", path.name, *example_names["ARGUMENTS"]]), flush=True)
            done = subprocess.run([*command, "--png", str(HERE / f"{name}.png")])
            if done.returncode:
                return done.returncode
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
