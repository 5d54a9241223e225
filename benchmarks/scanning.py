"""How many files are looked at to see what can start: by a task that ends, and by a launch in the foreground.

Of a sweep as `benchmarks.status` writes it: most done, some running, failed, waiting or new.

python -m benchmarks.scanning [--jobs N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweepctl.launch.feed import Decision, Feed
from sweepctl.launch.retries import Retries
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.store.workspace import Workspace

LOOKS = frozenset({"open", "os.listdir", "os.scandir"})
"""Audit events that are calls to a file system; Python reports no stat, which is counted apart."""


@dataclass(slots=True)
class FileCalls:
    """Calls to a file system while they are counted."""

    count: int = 0
    """How many: files opened, folders listed, files asked about."""
    counting: bool = False
    """Whether they count now."""


_calls: FileCalls | None = None


@contextmanager
def file_calls() -> Iterator[FileCalls]:
    """Counts this process's calls."""
    global _calls
    if _calls is None:
        calls = _calls = FileCalls()
        opened = ""

        def heard(event: str, details: tuple[Any, ...]) -> None:
            nonlocal opened
            if calls.counting and event in LOOKS:
                again = event == "open" and details[1] is None and str(details[0]) == opened
                opened = str(details[0]) if event == "open" and not again else ""
                calls.count += not again  # open() by an opener of its own is heard twice

        sys.addaudithook(heard)
    calls, stat, before = _calls, os.stat, _calls.count

    def counted(*arguments: Any, **settings: Any) -> os.stat_result:
        calls.count += 1
        return stat(*arguments, **settings)

    os.stat, calls.counting, of_here = counted, True, FileCalls()  # type: ignore[assignment]
    try:
        yield of_here
    finally:
        os.stat, calls.counting = stat, False
        of_here.count = calls.count - before


def scans(workspace: Workspace, for_all_sweeps: bool) -> Iterator[tuple[int, int, float]]:
    """Of two looks at all jobs by one feed, right after each other: startable jobs, calls, seconds. What the
    first finds is handed out before the second. A task notes what it finds finished, and looks at nothing
    that another has noted."""
    sweep = workspace.sweep("large")
    sweep_jobs = SweepJobs(sweep, sweep.plans())
    retries = Retries(failed=0, request=0, out_of_memory=3, died=3, infrastructure=3, storage=3)
    finished: list[str] = []

    def decided(decision: Decision) -> None:
        if for_all_sweeps and decision.state.is_final and decision.planned_job.job.kind != "trunk":
            finished.append(decision.planned_job.job.id)

    feed = Feed(sweep_jobs, sweep_jobs.by_id.values(), retries, decided, for_all_sweeps=for_all_sweeps)
    for _ in range(2):
        started = time.perf_counter()
        with file_calls() as calls:
            for job in sweep.noted_finished() if for_all_sweeps else ():
                feed.open.pop(job, None)
            startable = list(feed.startable())
        yield len(startable), calls.count, time.perf_counter() - started
        sweep.note_finished(finished)
        finished.clear()
        for planned_job in startable:
            feed.started(planned_job)


def main() -> None:
    """Build the store in a temporary folder, look, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    from benchmarks.side_by_side import machine
    from benchmarks.status import build

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        jobs = build(Workspace(Path(folder)), arguments.jobs).total()
        for who, for_all_sweeps in (("first task", True), ("next task", True), ("launch", False)):
            for look, (startable, calls, seconds) in zip(
                ("first look", "next look"), scans(Workspace(Path(folder)), for_all_sweeps), strict=True
            ):
                row = {"who": who, "look": look, "startable": startable, "calls": calls, "seconds": seconds}
                rows.append(row)
    if arguments.json:
        print(json.dumps({"machine": machine(), "jobs": jobs, "looks": rows}, indent=1))
        return
    print(f"a sweep of {jobs:,} jobs, files in the page cache; {machine()}")
    for row in rows:
        print(
            f"  {row['who']:10} {row['look']}: {row['calls']:7,} calls, {row['calls'] / jobs:.2f} a job, "
            f"{row['seconds']:.2f} s, {row['startable']:,} can start"
        )


if __name__ == "__main__":
    main()
