"""A job in a process of its own, whose compiler finds nothing that another has left."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sweepctl.launch.workers import GROUP_VARIABLES, safe_path, without, worker_process
from sweepctl.store.ends import End
from sweepctl.store.manifest import Manifest
from sweepctl.store.protocol import Ended, Progress, RunJob, Saved, read_event
from sweepctl.train.job import Outcome

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Variables that say where compiled code is kept."""


def run_apart(manifest: Manifest, report: Callable[[Progress | Saved], None]) -> Outcome:
    """Train a job in a worker; how it ended. Where `report` raises, the worker is killed in that moment."""
    # Processes that compile for the worker outlive it by a moment, and may write yet.
    with tempfile.TemporaryDirectory(prefix="sweepctl-check-", ignore_cleanup_errors=True) as folder:
        environment = safe_path(without(os.environ, GROUP_VARIABLES))
        environment |= {name: str(Path(folder) / name.lower()) for name in CACHES}
        log = Path(folder) / "log"
        with open(log, "w") as errors:
            process = worker_process(environment, errors)
        with suppress(BrokenPipeError), process:  # it may be gone before it has read
            try:
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(RunJob(manifest).line() + "\n")
                process.stdin.flush()
                for line in process.stdout:
                    event = read_event(line)
                    if isinstance(event, Ended):
                        return Outcome(event.end, event.message)
                    if isinstance(event, (Progress, Saved)):
                        report(event)
            finally:
                process.kill()
        lines = log.read_text(errors="replace").strip().splitlines() or ["its process ended"]
        return Outcome(End.DIED, lines[-1])
