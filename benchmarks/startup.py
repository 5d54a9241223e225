"""How long a command takes to answer: --help, status of the demo, and, to compare, importing pandas.

python -m benchmarks.startup [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

COMMANDS = {
    "sweepctl --help": ["-m", "sweepctl", "--help"],
    "sweepctl status demo": ["-m", "sweepctl", "status", "demo"],
    "python -c 'import pandas'": ["-c", "import pandas"],
}


def action(arguments: list[str]) -> Callable[[], object]:
    """A call of this interpreter."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Measure and print. Without a planned demo in the workspace, one is planned in a temporary one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    from benchmarks.side_by_side import machine, take_turns
    from sweepctl.store.workspace import Workspace

    with tempfile.TemporaryDirectory() as folder:
        if not Workspace.default().sweep("demo").pointer.exists():
            os.environ["SWEEPCTL_HOME"] = folder
            action(["-m", "sweepctl", "plan"])()
        seconds = take_turns([action(command) for command in COMMANDS.values()], arguments.rounds)
    rows = {name: sorted(times) for name, times in zip(COMMANDS, seconds, strict=True)}
    if arguments.json:
        print(json.dumps({"machine": machine(), "seconds": rows}, indent=1))
        return
    print(f"start-up; {machine()}")
    for name, times in rows.items():
        print(
            f"  {name:26} median {statistics.median(times):.3f} s, slowest of {len(times)} {times[-1]:.3f} s"
        )


if __name__ == "__main__":
    main()
