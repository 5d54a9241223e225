"""NVIDIA's multi-process service (MPS), under which processes that share a GPU run at once, not in turns.

Every GPU that is shared gets a daemon of its own, with its own folder, for the workers of one launch or task;
it ends with them, also where whoever started it is killed. A daemon that is there already is somebody's: it
is used as it is and left alone. Where none can be had the processes take turns, and a sentence says why.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
PATIENCE_S = 60.0
"""How long a daemon may take to start, to serve, or to end."""
KEEPER = f"""{CONTROL} -d >"$CUDA_MPS_LOG_DIRECTORY/control.out" 2>&1 </dev/null && echo started || exit 1
read -r end || sleep 60
echo quit | timeout 30 {CONTROL} >/dev/null 2>&1
rm -rf "$CUDA_MPS_LOG_DIRECTORY"
"""
"""Starts a daemon and ends it when its input closes; where that comes without a word, whoever held it was
killed, and the workers are given a minute to save."""
PROBE = (
    sys.executable,
    "-I",
    "-c",
    """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
device, context = ctypes.c_int(), ctypes.c_void_p()
code = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0)
code = code or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
sys.exit(f"a process gets CUDA error {code} under it" if code else 0)
""",
)
"""Uses the first GPU that it sees, as a worker will."""


class Unavailable(Exception):
    """A daemon cannot be had; why."""


@contextlib.contextmanager
def shared(gpus: Sequence[str], say: Callable[[str], None]) -> Iterator[Mapping[str, Mapping[str, str]]]:
    """Share these GPUs while this lasts: GPU -> the variables of the processes that are to use it, nothing
    where they take turns or find a daemon by themselves."""
    variables: dict[str, Mapping[str, str]] = {}
    with contextlib.ExitStack() as daemons:
        if gpus and _serves(os.environ):
            say("Jobs that share a GPU use the MPS daemon that is there.")
        elif gpus:
            try:
                variables = {gpu: daemons.enter_context(_daemon(gpu)) for gpu in gpus}
            except Unavailable as error:
                daemons.close()
                say(f"Jobs that share a GPU take turns on it, without MPS: {error}.")
        yield variables


@contextlib.contextmanager
def _daemon(gpu: str) -> Iterator[Mapping[str, str]]:
    """A daemon for one GPU.

    Raises:
        Unavailable: it does not start or does not serve.
    """
    if shutil.which(CONTROL) is None:
        raise Unavailable(f"there is no {CONTROL} here")
    try:
        folder = Path(tempfile.mkdtemp(prefix="sweepctl-mps-"))  # short: its sockets lie there
    except OSError as error:
        raise Unavailable(f"no folder for its sockets can be made ({error.strerror})") from None
    own = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    keeper = subprocess.Popen(
        ["sh", "-c", KEEPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **own, "CUDA_VISIBLE_DEVICES": gpu},
        start_new_session=True,  # Ctrl-C is for the workers, which save first
    )
    try:
        _wait_for(keeper, folder / "control.out")
        # A daemon numbers the GPUs that it was given anew; names that are no numbers stay.
        variables = {**own, "CUDA_VISIBLE_DEVICES": "0" if gpu.isdigit() else gpu}
        _probe(variables)
        yield variables
    finally:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            keeper.communicate(b"end\n", PATIENCE_S)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(keeper: subprocess.Popen[bytes], words: Path) -> None:
    assert keeper.stdout is not None
    if not select.select([keeper.stdout], [], [], PATIENCE_S)[0]:
        raise Unavailable(f"its daemon did not start within {PATIENCE_S:.0f} s")
    if not keeper.stdout.readline():
        with contextlib.suppress(OSError):
            for line in words.read_text(errors="replace").split("\n"):
                if line.strip():
                    raise Unavailable(line.strip().rstrip("."))
        raise Unavailable("its daemon did not start")


def _probe(variables: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            PROBE, capture_output=True, text=True, timeout=PATIENCE_S, env={**os.environ, **variables}
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"a process did not get its GPU within {PATIENCE_S:.0f} s") from None
    if done.returncode:
        raise Unavailable((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])


def _serves(environment: Mapping[str, str]) -> bool:
    """Whether a daemon answers where processes with this environment look for one."""
    try:
        done = subprocess.run(
            [CONTROL], input=b"get_server_list\n", capture_output=True, timeout=10, env=dict(environment)
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
