"""Runs lines, each in processes of its own, and ends them when their time is over."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.lines import Line
from benchmarks.gpu.setting import Row, Setting

ROOT = Path(__file__).parents[2]
LOG_LINES = 30
"""Of a log's end that are kept."""
GRACE_S = 8.0
"""For a case that was begun in time."""
Say = Callable[[int, str, dict[str, Any]], None]


@dataclass(slots=True)
class Running:
    """One process of a line."""

    line: Line
    """What it runs."""
    part: int
    """Which of the line's processes it is."""
    process: subprocess.Popen[str]
    """Itself, first of a session of its own."""
    log: Path
    """What it prints beside rows."""
    ended: bool = False
    """Whether it has closed its output."""

    @property
    def name(self) -> str:
        return self.line.name if self.line.processes == 1 else f"{self.line.name}.{self.part}"


def variables(setting: Setting) -> dict[str, str]:
    """The environment of everything that is started: nothing is written outside the folder."""
    places = [ROOT, ROOT / ".gpu-deps"]
    paths = [str(place) for place in places if place.exists()] + [os.environ.get("PYTHONPATH", "")]
    own = {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "SWEEPCTL_HOME": setting.folder,
        "TORCHINDUCTOR_CACHE_DIR": str(setting.home / "compiled"),
        "TRITON_CACHE_DIR": str(setting.home / "compiled" / "triton"),
    }
    return {**os.environ, "OMP_NUM_THREADS": "1", **own}


def run_group(lines: list[Line], setting: Setting, say: Say, logs: dict[str, str]) -> None:
    """Run these lines beside each other until they end or their time is over. `logs` gets the ends of what
    they printed."""
    heard: queue.SimpleQueue[tuple[Running, str | None]] = queue.SimpleQueue()
    running = [start(line, part, setting) for line in lines for part in range(line.processes)]
    for ours in running:
        threading.Thread(target=_listen, args=(ours, heard), daemon=True).start()
    deadline = time.monotonic() + setting.seconds + GRACE_S
    try:
        while not all(ours.ended for ours in running):
            try:
                ours, text = heard.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if text is None:
                ours.ended = True
            else:
                say(ours.line.number, ours.name, json.loads(text))
    finally:
        for ours in running:
            end(ours.process)
            logs[ours.name] = "\n".join(ours.log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    for ours in running:
        code = ours.process.returncode
        if not ours.ended:
            say(
                ours.line.number, ours.name, _row(f"ended after {setting.seconds + GRACE_S:.0f} s", "skipped")
            )
        elif code:
            say(ours.line.number, ours.name, _row(f"its process ended with exit code {code}", "crashed"))


def start(line: Line, part: int, setting: Setting) -> Running:
    own = dataclasses.replace(setting, part=part, parts=line.processes)
    log = setting.home / f"{line.name}-{part}.log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.child", line.name, own.line()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            cwd=ROOT,
            env=variables(setting),
            start_new_session=True,
        )
    return Running(line, part, process, log)


def end(process: subprocess.Popen[Any]) -> None:
    """With all that it has started and not ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _listen(ours: Running, heard: queue.SimpleQueue[tuple[Running, str | None]]) -> None:
    assert ours.process.stdout is not None
    for text in ours.process.stdout:
        heard.put((ours, text))
    ours.process.wait()
    heard.put((ours, None))


def _row(why: str, verdict: str) -> dict[str, Any]:
    return dataclasses.asdict(Row("the rest", verdict, why))  # type: ignore[arg-type]
