"""Put on a process's PYTHONPATH, kills it (SIGKILL) inside a chosen window of its work.

$FAULTS names a folder. Every worker, Slurm task and launcher that starts takes the next file of its kind
there, a fate: the window, and how many times it passes unharmed. Before it dies it writes a file into
`dead/`, so that a test can count which windows were really hit. With no fate left a process lives."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any


def moved_to(*ends: str) -> Callable[[str, tuple[Any, ...]], bool]:
    """Is this the rename that puts something at its place?"""

    def matches(event: str, args: tuple[Any, ...]) -> bool:
        return event == "os.rename" and any(end in os.fspath(args[1]) for end in ends)

    return matches


def scratch_written(event: str, args: tuple[Any, ...]) -> bool:
    """A file of a checkpoint is there, the next step of writing it begins."""
    return event == "open" and "checkpoints/.step-" in str(args[0])


def listed(event: str, args: tuple[Any, ...]) -> bool:
    return event == "os.listdir" and "checkpoints" in str(args[0])


CLAIM, CHECKPOINT, RESULT = moved_to("/attempts/0"), moved_to("/checkpoints/step-"), moved_to("/result.json")
WINDOWS = {
    "start": (CLAIM, False),
    "started": (CLAIM, True),
    "write": (scratch_written, False),
    "rename": (CHECKPOINT, False),
    "renamed": (CHECKPOINT, True),
    "result": (RESULT, False),
    "resulted": (RESULT, True),
    "launcher": (listed, False),
    "error": (scratch_written, False),
    "memory": (scratch_written, False),
}
"""Window -> the event, and whether death comes at the next one after it."""
RAISED = {"error": RuntimeError("a fault of the test"), "memory": MemoryError("a fault of the test")}
"""Windows where nobody dies, but something goes wrong."""


def take(folder: Path, kind: str) -> tuple[str, int] | None:
    """The next fate for this kind of process; each is taken once."""
    for fate in sorted(folder.glob(f"{kind}-*")):
        with contextlib.suppress(FileNotFoundError):
            taken = fate.rename(folder / "taken" / fate.name)
            window, passes = taken.read_text().split()
            return window, int(passes)
    return None


def die(folder: Path, window: str) -> None:
    os.close(os.open(folder / "dead" / f"{window}-{os.getpid()}", os.O_CREAT | os.O_WRONLY))
    if window in RAISED:
        raise RAISED[window]
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_a_step(folder: Path, passes: int) -> None:
    """Death inside an update, found by the CPU time it takes and the stack of the moment."""

    def look(number: int, frame: FrameType | None) -> None:
        nonlocal passes
        while frame is not None:
            if frame.f_code.co_qualname.endswith("Trainer.update"):
                passes -= 1
                if passes < 0:
                    die(folder, "step")
                break
            frame = frame.f_back

    signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, 0.01, 0.01)


def arm(folder: Path) -> None:
    words = " ".join(sys.orig_argv)
    kinds = {"worker": "sweepctl.train.worker", "task": "launch.slurm.task", "launcher": " launch "}
    kind = next((kind for kind, word in kinds.items() if word in words), None)
    fate = take(folder, kind) if kind else None
    if fate is None:
        return
    window, passes = fate
    if window == "step":
        die_in_a_step(folder, passes)
        return
    wanted, after = WINDOWS[window]
    armed = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal armed, passes
        if armed:
            armed = False
            die(folder, window)
        elif wanted(event, args):
            passes -= 1
            if passes < 0:
                passes = sys.maxsize
                if after:
                    armed = True
                else:
                    die(folder, window)

    sys.addaudithook(hook)


if "FAULTS" in os.environ:
    arm(Path(os.environ["FAULTS"]))
