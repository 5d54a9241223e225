"""A worker process: jobs in on standard input, events out on standard output, as `store/protocol.py` says.

It stops, saving its state, on SIGTERM or when its input closes: a killed launcher leaves nobody behind.
Where WORLD_SIZE says that several processes train each job, rank 0 is this worker and the others follow it:
they heed no signal and read nothing, and end when it does. Exit code 75: they lost each other; start all
of them anew. A worker also ends where it cannot record that it has given a job up: nobody takes one from a
process that lives.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
import threading
from typing import NoReturn, TextIO

from sweepctl.errors import StorageError, SweepctlError
from sweepctl.store.manifest import Manifest
from sweepctl.store.protocol import Ended, Event, Ready, RunJob, StopJob, read_command
from sweepctl.train.processes import SingleProcess


class JobQueue:
    """Takes one job after another until its input ends."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._jobs: queue.SimpleQueue[Manifest | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._stop = threading.Event()
        self._current = ""
        self._stopped: set[str] = set()

    def end(self, *_: object) -> None:
        """Save the current job and take no other. Also the signal handler."""
        self._ending.set()
        self._stop.set()

    def listen(self, lines: TextIO) -> None:
        """Read commands until the input closes."""
        try:
            for line in lines:
                match read_command(line):
                    case RunJob(manifest):
                        self._stopped.discard(manifest.job)
                        self._jobs.put(manifest)
                    case StopJob(job):
                        self._stopped.add(job)
                        if job == self._current:
                            self._stop.set()
        finally:  # also after half a line of a launcher that was killed
            self.end()
            self._jobs.put(None)

    def work(self) -> int:
        """Run what comes in, with the other processes where there are any; the exit code."""
        from sweepctl.train.distributed import connect  # torch, only once the launcher is being listened to

        try:
            processes = connect()
            self._take(processes)
            processes.end()
        except SweepctlError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        return 0

    def _take(self, processes: SingleProcess) -> None:
        from sweepctl.train.gpu_memory import give_back_memory
        from sweepctl.train.job import run

        # The imports' millions of objects live as long as the process: keep the collector off them.
        gc.collect()
        gc.freeze()
        self._say(Ready())
        while not self._ending.is_set() and (manifest := self._jobs.get()) is not None:
            self._stop.clear()
            self._current = manifest.job
            if manifest.job in self._stopped:  # cancelled before it began
                self._stop.set()
            if self._ending.is_set():
                break
            outcome = run(manifest, self._stop, self._say, processes)
            self._current = ""
            self._say(Ended(manifest.job, outcome.why, outcome.message))
            if outcome.owns_job:
                raise StorageError(outcome.message)
            processes.end_job()
            give_back_memory()

    def _say(self, event: Event) -> None:
        try:
            self._output.write(event.line() + "\n")
        except OSError:
            self.end()


def main() -> None:
    """Talk to the launcher over the standard streams."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints goes to the log, not into the protocol
    several = int(os.environ.get("WORLD_SIZE") or 1) > 1
    if several:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it warns of every connection that ends
        if int(os.environ.get("RANK") or 0) > 0:
            from sweepctl.train.follower import main as follow

            _leave(follow())
    worker = JobQueue(output)
    signal.signal(signal.SIGTERM, worker.end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=worker.listen, args=(sys.stdin,), daemon=True).start()
    code = worker.work()
    if several or code:
        _leave(code)


def _leave(code: int) -> NoReturn:
    """End at once: a group that is taken down in order waits for its other processes, or aborts without, and
    a job that could not be given up is owned until then."""
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
