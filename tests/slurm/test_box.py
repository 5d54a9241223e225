"""The box is a real Slurm: arrays, GPUs by name, preemption by requeue, nodes that die and come back."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import BOX


def ask(box: Any, *command: str) -> str:
    done = subprocess.run(command, env=box.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def submit(box: Any, out: Path, script: str, *options: str) -> str:
    """The id of a job whose output goes to a file named by it."""
    command = [
        "sbatch",
        "--parsable",
        f"--output={out}/%A_%a.out",
        "--open-mode=append",
        *options,
        "--wrap",
        script,
    ]
    return ask(box, *command).split(";")[0]


def until(true: Callable[[], Any], patience_s: float = 240) -> Any:
    deadline = time.monotonic() + patience_s
    while not (reached := true()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
    return reached


def state(box: Any, job: str) -> str:
    return ask(box, "squeue", "-h", "-t", "all", "-j", job, "-o", "%T")


def listening(box: Any, names: list[str] | None = None) -> list[str]:
    """Where daemons of the box listen, as hexadecimal address:port."""
    pids = {box._pid(name) for name in names or box.daemons}
    sockets = {
        os.readlink(f"/proc/{pid}/fd/{fd}")
        for pid in pids
        for fd in os.listdir(f"/proc/{pid}/fd")
        if os.path.islink(f"/proc/{pid}/fd/{fd}")
    }
    inodes = {name[8:-1] for name in sockets if name.startswith("socket:[")}
    return [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        if os.path.exists(table)
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[9] in inodes
    ]


def over(pid: int) -> bool:
    """Whether a process has ended, if perhaps nobody asked for its end yet."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def name_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_up_is_idempotent(box: Any) -> None:
    before = [box._pid(name) for name in (*box.names, "slurmctld", "munged")]
    box.up()
    assert [box._pid(name) for name in (*box.names, "slurmctld", "munged")] == before


def test_up_resumes_what_was_drained(box: Any) -> None:
    ask(box, "scontrol", "update", "nodename=node2", "state=drain", "reason=test")
    box.up()
    assert "drain" not in ask(box, "sinfo", "-h", "-n", "node2", "-o", "%T")


def test_it_listens_on_loopback_only(box: Any) -> None:
    addresses = listening(box)
    assert len(addresses) == len(box.names) + 1
    assert {address.split(":")[0] for address in addresses} == {"0100007F"}


def test_an_array_runs_and_gpus_are_named(box: Any, tmp_path: Path) -> None:
    job = submit(
        box, tmp_path, "echo $SLURM_ARRAY_TASK_ID $CUDA_VISIBLE_DEVICES", "--array=0-2", "--gres=gpu:2"
    )
    files = [tmp_path / f"{job}_{i}.out" for i in range(3)]
    until(lambda: all(file.exists() and file.read_text().strip() for file in files))
    for i, file in enumerate(files):
        number, devices = file.read_text().split()
        assert number == str(i) and len(devices.split(",")) == 2


def test_a_held_task_starts_when_it_is_released(box: Any, tmp_path: Path) -> None:
    job = submit(box, tmp_path, "echo begun", "--hold", "--array=0-1")
    assert state(box, job) == "PENDING"
    ask(box, "scontrol", "release", f"{job}_1")
    until(lambda: (tmp_path / f"{job}_1.out").exists())
    assert not (tmp_path / f"{job}_0.out").exists()
    ask(box, "scancel", job)


def test_a_preempted_job_is_requeued(box: Any, tmp_path: Path) -> None:
    whole = ["--exclusive", "--nodelist=node1"]
    weak = submit(box, tmp_path, "echo run; sleep 600", "--partition=preempt", "--requeue", *whole)
    until(lambda: state(box, weak) == "RUNNING")
    strong = submit(box, tmp_path, "true", "--partition=gpu", *whole)
    until(lambda: "COMPLETED" in state(box, strong))
    out = tmp_path / f"{weak}_{2**32 - 2}.out"
    until(lambda: out.exists() and out.read_text().count("run") == 2)
    ask(box, "scancel", weak)


def test_a_dead_nodes_job_goes_on_elsewhere(box: Any, tmp_path: Path) -> None:
    job = submit(box, tmp_path, "echo $SLURMD_NODENAME; sleep 600", "--requeue", "--exclude=node1")
    where = until(lambda: ask(box, "squeue", "-h", "-j", job, "-t", "RUNNING", "-o", "%N"))
    box.kill(where)
    ask(box, "scontrol", "update", f"nodename={where}", "state=down", "reason=test")
    until(lambda: ask(box, "squeue", "-h", "-j", job, "-t", "RUNNING", "-o", "%N") not in ("", where))
    ask(box, "scancel", job)
    box.start(where)
    ask(box, "scontrol", "update", f"nodename={where}", "state=resume")
    until(box._ready)


def test_it_ends_cleanly_with_everything_it_started(tmp_path: Path) -> None:
    """A second box beside the first, with a job that ignores SIGTERM."""
    other = BOX.Box(tmp_path / "box", nodes=1)
    other.up()
    job = submit(other, tmp_path, "trap '' TERM; echo begun; sleep 600")
    until(lambda: list(tmp_path.glob(f"{job}_*.out")))
    pids = [other._pid(name) for name in ("node1", "slurmctld", "munged")]
    steps = [pid for pid in other._of_this_box() if name_of(pid).startswith(b"slurmstepd")]
    assert steps
    pids += steps
    other.down()
    assert not other.state.exists() and not other._of_this_box()
    assert all(over(pid) for pid in pids)


def test_what_it_lacks_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BOX, "search_path", lambda: str(tmp_path))
    with pytest.raises(BOX.BoxError, match="make slurm-install"):
        BOX.Box(tmp_path / "box").up()
    assert not (tmp_path / "box").exists()


def test_it_starts_only_where_the_name_of_the_host_leads_to_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BOX.socket, "gethostbyname", lambda host: "10.0.0.7")
    with pytest.raises(BOX.BoxError, match=r"leads to 10\.0\.0\.7, where Slurm would listen"):
        BOX.Box(tmp_path / "box").up()
    assert not (tmp_path / "box").exists()
