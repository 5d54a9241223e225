"""A real Slurm on one machine: munge, slurmctld and several slurmd, all state in one folder, loopback only.

    python launchers/slurmbox/box.py up        start it (again: nothing happens)
    python launchers/slurmbox/box.py run CMD   run a command against it
    python launchers/slurmbox/box.py env       print the lines that point a shell at it
    python launchers/slurmbox/box.py down      end it and delete its state
    python launchers/slurmbox/box.py kill node2 | start node2     a node that dies, and one that comes back

Its nodes declare 16 CPUs, 64 GB and 8 fake GPUs each. Partition `gpu` is the default; jobs in `preempt` are
requeued when `gpu` needs their place. Needs Debian's or Ubuntu's slurm-wlm and munge; no systemd, no cgroups,
no root. It is for trying and testing: GPUs are names, and nothing limits what a job really uses.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CPUS, MEMORY_MB, GPUS = 16, 64000, 8
DEFAULT_STATE = Path(os.environ.get("SLURMBOX", f"/tmp/slurmbox-{getpass.getuser()}"))
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "scontrol")


class BoxError(Exception):
    """Something the box cannot do, in one sentence."""


@dataclass(frozen=True)
class Box:
    """A cluster of `nodes` nodes with everything it writes under `state`."""

    state: Path
    nodes: int = 4
    settings: str = ""

    @property
    def conf(self) -> Path:
        return self.state / "slurm.conf"

    @property
    def names(self) -> list[str]:
        """Node names, of the running box where there is one."""
        if self.conf.exists():
            lines = self.conf.read_text().splitlines()
            return [line.split()[0].partition("=")[2] for line in lines if line.startswith("NodeName=node")]
        return [f"node{i + 1}" for i in range(self.nodes)]

    def environment(self) -> dict[str, str]:
        """What a process needs to talk to it."""
        return {**os.environ, "SLURM_CONF": str(self.conf), "PATH": search_path()}

    def up(self, patience_s: float = 90.0) -> None:
        """Start what is not running and wait until every node is idle."""
        missing = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
        if missing:
            raise BoxError(
                f"{', '.join(missing)} not found: `make slurm-install`, or apt-get install slurm-wlm munge."
            )
        if not self.conf.exists():
            self._write()
        if not self._alive("munged"):
            run = self.state / "run"
            self._start("munged", [
                "munged", "--foreground", f"--key-file={self.state}/munge.key", f"--socket={run}/munge.sock",
                f"--pid-file={run}/munged.munge.pid", f"--log-file={self.state}/log/munged.log",
                f"--seed-file={self.state}/munge.seed", "--num-threads=2", "--force",
            ])  # fmt: skip
            _until(lambda: (run / "munge.sock").exists(), patience_s, "munged did not start")
        if not self._alive("slurmctld"):
            self._start("slurmctld", ["slurmctld", "-D", "-f", str(self.conf)])
        for name in self.names:
            self.start(name)
        _until(self._ready, patience_s, f"the nodes did not become idle; see {self.state}/log")

    def down(self) -> None:
        """End its processes, jobs' steps first, and delete its state."""
        if not self.state.exists():
            return
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(
                ["scancel", "--user", getpass.getuser()],
                env=self.environment(),
                timeout=5,
                capture_output=True,
            )
        for name in (*self.names, "slurmctld", "munged"):
            self._kill(name, signal.SIGTERM)
        for pid in self._of_this_box():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.state, ignore_errors=True)

    def start(self, node: str) -> None:
        """Start a node's slurmd where it is not running."""
        if not self._alive(node):
            self._start(node, ["slurmd", "-D", "-f", str(self.conf), "-N", node])

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a daemon a signal: a node's slurmd by its name, or slurmctld."""
        if name not in (*self.names, "slurmctld"):
            raise BoxError(f"{name} is not part of the box; {', '.join((*self.names, 'slurmctld'))} are.")
        self._kill(name, number)

    def _write(self) -> None:
        for folder in ("run", "log", "spool", "ctld", "dev"):
            (self.state / folder).mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o755)
        subprocess.run(
            ["mungekey", "--create", f"--keyfile={self.state}/munge.key"], check=True, env=self.environment()
        )
        for i in range(GPUS):  # Slurm wants a device; only its name is ever used
            (self.state / "dev" / f"gpu{i}").symlink_to("/dev/null")
        (self.state / "gres.conf").write_text(
            f"Name=gpu Type=fake File={self.state}/dev/gpu[0-{GPUS - 1}] Flags=nvidia_gpu_env "
            "AutoDetect=off\n"
        )
        (self.state / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self.conf.write_text(self._conf())

    def _conf(self) -> str:
        ports = _free_ports(self.nodes + 1)
        host, user, s = socket.gethostname(), getpass.getuser(), self.state
        nodes = "\n".join(
            f"NodeName=node{i + 1} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} "
            f"RealMemory={MEMORY_MB} Gres=gpu:fake:{GPUS} State=UNKNOWN"
            for i, port in enumerate(ports[1:])
        )
        return f"""\
ClusterName=slurmbox
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={s}/run/munge.sock,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={s}/ctld
SlurmdSpoolDir={s}/spool/%n
SlurmctldPidFile={s}/run/slurmctld.slurm.pid
SlurmdPidFile={s}/run/%n.slurm.pid
SlurmctldLogFile={s}/log/slurmctld.log
SlurmdLogFile={s}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={s}/log/jobcomp
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=100000,defer_batch
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
InactiveLimit=0
KillWait=5
MinJobAge=20
UnkillableStepTimeout=120
PropagateResourceLimits=NONE
{nodes}
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP DefMemPerCPU=1000
PartitionName=gpu Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=preempt PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
{self.settings}
"""

    def _start(self, name: str, command: list[str]) -> None:
        with open(self.state / "log" / f"{name}.out", "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(),
                start_new_session=True, cwd=self.state,
            )  # fmt: skip
        (self.state / "run" / f"{name}.pid").write_text(str(process.pid))

    def _pid(self, name: str) -> int | None:
        try:
            return int((self.state / "run" / f"{name}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _alive(self, name: str) -> bool:
        """Whether the process whose id was noted is still this daemon of this box."""
        pid = self._pid(name)
        if pid is None:
            return False
        try:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        return str(self.state).encode() in command

    def _kill(self, name: str, number: signal.Signals) -> None:
        if not self._alive(name):
            return
        pid = self._pid(name)
        assert pid is not None
        os.kill(pid, number)
        with contextlib.suppress(BoxError):
            _until(lambda: not self._alive(name), 10.0, "")
        if self._alive(name):
            os.kill(pid, signal.SIGKILL)

    def _of_this_box(self) -> list[int]:
        """Processes whose environment or command line names this box: its daemons, and what its jobs left."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) in (os.getpid(), os.getppid()):
                continue
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                mine = f"SLURM_CONF={self.conf}".encode()
                variables = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
                in_job = mine in variables and any(v.startswith(b"SLURM_JOB_ID=") for v in variables)
                if in_job or any(
                    str(self.state).encode() in word for word in words[:6] if b"slurm" in words[0]
                ):
                    found.append(int(entry))
        return found

    def _ready(self) -> bool:
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-p", "gpu", "-o", "%N %T"], env=self.environment(), capture_output=True,
            text=True, timeout=20,
        )  # fmt: skip
        states = dict(line.split() for line in done.stdout.splitlines())
        good = ("idle", "mixed", "allocated", "completing")
        return len(states) == len(self.names) and all(state.rstrip("*") in good for state in states.values())


def search_path() -> str:
    """Daemons live in sbin, which is not on every user's path."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"])


def _free_ports(count: int) -> list[int]:
    """Loopback ports that are free now."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _until(true: object, patience_s: float, otherwise: str) -> None:
    assert callable(true)
    deadline = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > deadline:
            raise BoxError(f"{otherwise}.")
        time.sleep(0.05)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="its folder ($SLURMBOX)")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("do", choices=["up", "down", "env", "run", "kill", "start"])
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    box = Box(arguments.state.absolute(), arguments.nodes)
    try:
        if arguments.do == "up":
            box.up()
            print(f"{len(box.names)} nodes are up. export SLURM_CONF={box.conf}")
        elif arguments.do == "down":
            box.down()
        elif not box.conf.exists():
            raise BoxError(f"there is no box in {box.state}; `up` starts one.")
        elif arguments.do == "env":
            print(f"export SLURM_CONF={box.conf}")
        elif arguments.do == "run":
            return subprocess.run(arguments.rest, env=box.environment()).returncode
        else:
            for name in arguments.rest:
                box.kill(name) if arguments.do == "kill" else box.start(name)
    except BoxError as error:
        print(f"slurmbox: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
