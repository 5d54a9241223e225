"""The daemons of shared GPUs: started, used, and ended by whoever started them; where none can be had, the
reason is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweepctl.launch import mps

DAEMON = """#!/bin/sh
if [ "$1" = -d ]; then
    [ -n "$REFUSES" ] && echo "An instance of this daemon is already running" && exit 1
    echo "$CUDA_VISIBLE_DEVICES" > "$CUDA_MPS_PIPE_DIRECTORY/control"
    echo "start $CUDA_VISIBLE_DEVICES" >> "$CALLS"
    exit 0
fi
read word
[ -e "$CUDA_MPS_PIPE_DIRECTORY/control" ] || exit 1
echo "$word" >> "$CALLS"
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a control program in the place of NVIDIA's is told; probes go well."""
    program = tmp_path / "bin" / mps.CONTROL
    program.parent.mkdir()
    program.write_text(DAEMON)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(mps, "PROBE", ("true",))
    return tmp_path / "calls"


def test_every_shared_gpu_has_a_daemon_while_it_is_needed(calls: Path) -> None:
    said: list[str] = []
    with mps.shared(["3", "GPU-a1"], said.append) as variables:
        folders = [Path(variables[gpu]["CUDA_MPS_PIPE_DIRECTORY"]) for gpu in ("3", "GPU-a1")]
        assert [(folder / "control").read_text().strip() for folder in folders] == ["3", "GPU-a1"]
        # A daemon numbers its GPUs anew.
        assert [variables[gpu]["CUDA_VISIBLE_DEVICES"] for gpu in variables] == ["0", "GPU-a1"]
        assert calls.read_text().split("\n")[:-1] == ["start 3", "start GPU-a1"]
    assert calls.read_text().split("\n")[2:-1] == ["quit", "quit"]
    assert not said and not any(folder.exists() for folder in folders)


def test_a_daemon_that_is_there_is_used_and_left_alone(calls: Path, tmp_path: Path) -> None:
    (tmp_path / "control").touch()
    said: list[str] = []
    with mps.shared(["0"], said.append) as variables:
        assert variables == {} and "the MPS daemon that is there" in said[0]
    assert calls.read_text() == "get_server_list\n"


@pytest.mark.parametrize("trouble", ["not there", "refuses", "does not serve"])
def test_without_a_daemon_jobs_take_turns_and_the_reason_is_said(
    trouble: str, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    if trouble == "not there":
        monkeypatch.setattr(mps, "CONTROL", "no-such-control")
    if trouble == "refuses":
        monkeypatch.setenv("REFUSES", "1")
    if trouble == "does not serve":
        monkeypatch.setattr(mps, "PROBE", ("sh", "-c", "echo error 805 >&2; exit 1"))
    with mps.shared(["0", "1"], said.append) as variables:
        assert variables == {}
    reason = {"not there": "no-such-control", "refuses": "already running", "does not serve": "805"}
    assert "take turns" in said[0] and reason[trouble] in said[0]
    if trouble == "does not serve":
        assert calls.read_text() == "start 0\nquit\n"


def test_the_real_probe_says_what_is_missing_on_a_machine_without_a_gpu() -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("a GPU is here")
    with pytest.raises(mps.Unavailable, match=r"libcuda|CUDA error"):
        mps._probe({})


def test_a_killed_launcher_leaves_no_daemon(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys\nfrom sweepctl.launch import mps\nmps.PROBE = ('true',)\n"
    script += "mps.KEEPER = mps.KEEPER.replace('sleep 60', 'true')\n"
    script += "with mps.shared(['0'], print) as variables:\n"
    script += "    print(variables['0']['CUDA_MPS_PIPE_DIRECTORY'], flush=True)\n    sys.stdin.read()\n"
    launcher = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    folder = Path(launcher.stdout.readline().strip())
    assert folder.is_dir()
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    deadline = time.monotonic() + 30
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not folder.exists() and calls.read_text() == "start 0\nquit\n"
