"""Everything that a GPU has to show, in one call of a few minutes: a verdict or figure a row, and JSON.

python -m benchmarks.gpu [--depths 6,12,20] [--lines 1,2,...] [--peer PATH] [--limit-min 7] [--out FILE]
                         [--device cuda|cpu] [--quick]

What it needs and does not find is said at its start; a folder `.gpu-deps` beside `benchmarks/` is looked into
(docs/benchmarks.md says what belongs there). Each line runs in processes of its own, which are ended when its
time is over; what they had said by then stays. JSON is written after every row, by default to
gpu-acceptance.json in the folder $OUT where that is set. Exit code 1: something fails or crashed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.lines import LINES, groups, weight
from benchmarks.gpu.processes import run_group
from benchmarks.gpu.setting import Setting

DEPTHS = (6, 12, 20, 28)
"""12 L (64 L)^2 hidden parameters: 10.6M, 85M, 393M, 1.08B."""
LEFT_S = 10.0
"""For the end of processes, of the limit."""


class Report:
    """What was seen so far, on the terminal and in a file."""

    def __init__(self, out: Path | None, began: float) -> None:
        self.out, self.began = out, began
        self.record: dict[str, Any] = {"machine": {}, "rows": [], "logs": {}}

    def add(self, number: int, name: str, row: dict[str, Any]) -> None:
        self.record["rows"].append({"line": number, "name": name, **row})
        if row["what"] == "machine":
            self.record["machine"] = row["figures"]
        print(f"{row['verdict']:8} {number} {name:13} {row['what']}: {row['says']}", flush=True)
        self.write()

    def write(self) -> None:
        """Put in place as a whole: a process that is ended meanwhile leaves the last one."""
        self.record["seconds"] = round(time.monotonic() - self.began, 1)
        if self.out is not None:
            scratch = self.out.with_name(self.out.name + ".part")
            scratch.write_text(json.dumps(self.record, indent=1))
            scratch.replace(self.out)

    def count(self, *verdicts: str) -> int:
        return sum(row["verdict"] in verdicts for row in self.record["rows"])


def arguments_of(command: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(number) for number in text.split(","))

    every = tuple(sorted({line.number for line in LINES if line.number}))
    parser.add_argument("--depths", type=numbers, default=DEPTHS, help="layers of the rungs of lines 5 and 7")
    parser.add_argument("--lines", type=numbers, default=every)
    parser.add_argument("--peer", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--limit-min", type=float, default=7.0, help="of the whole")
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a few small steps of everything")
    return parser.parse_args(command)


def main(command: list[str] | None = None) -> int:
    """Run the lines; the exit code."""
    arguments = arguments_of(command)
    out = arguments.out or (Path(os.environ["OUT"]) / "gpu-acceptance.json" if "OUT" in os.environ else None)
    began = time.monotonic()
    report = Report(out, began)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    left = groups(arguments.lines)
    interrupted = True
    with tempfile.TemporaryDirectory(prefix="gpu-", ignore_cleanup_errors=True) as folder:
        with contextlib.suppress(KeyboardInterrupt):
            while left:
                remaining = 60 * arguments.limit_min - LEFT_S - (time.monotonic() - began)
                seconds = max(1.0, remaining * weight(left[0]) / sum(weight(group) for group in left))
                setting = Setting(
                    arguments.device,
                    arguments.depths,
                    arguments.quick,
                    folder,
                    str(arguments.peer.absolute()) if arguments.peer else None,
                    seconds,
                )
                run_group(left.pop(0), setting, report.add, report.record["logs"])
            interrupted = False
        report.write()
    words = [
        f"{report.count(v)} {w}" for v, w in (("holds", "hold"), ("fails", "fail"), ("crashed", "crashed"))
    ]
    print(f"{', '.join(words)}, {report.count('skipped')} skipped, {report.count('figure')} figures")
    print(f"{report.record['machine']}; {report.record['seconds']:.0f} s" + (f"; {out}" if out else ""))
    return 1 if report.count("fails", "crashed") or interrupted else 0


if __name__ == "__main__":
    raise SystemExit(main())
