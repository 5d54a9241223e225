"""A real Slurm on one machine: munge, slurmctld and several slurmd, all state in one folder, loopback only.

    python launchers/slurmbox/box.py up        start it (again: nothing happens)
    python launchers/slurmbox/box.py up --accounting --set MaxArraySize=101    with slurmdbd; with a setting
    python launchers/slurmbox/box.py run CMD   run a command against it
    python launchers/slurmbox/box.py env       print the lines that point a shell at it
    python launchers/slurmbox/box.py down      end it and delete its state
    python launchers/slurmbox/box.py kill node2 | start node2     a node that dies, and one that comes back

Its nodes declare 16 CPUs, 64 GB and 8 fake GPUs each. Partition `gpu` is the default; jobs in `preempt` are
requeued when `gpu` needs their place. Needs Debian's or Ubuntu's slurm-wlm and munge, for accounting slurmdbd
and mariadb-server too; no systemd, no cgroups, no root. It is for trying and testing: GPUs are names, and
nothing limits what a job really uses.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# As Python does for a script; tests load this file by its path.
sys.path.insert(0, str(Path(__file__).parent))
import accounting

CLUSTER, CPUS, MEMORY_MB, GPUS = "slurmbox", 16, 64000, 8
DEFAULT_STATE = Path(os.environ.get("SLURMBOX", f"/tmp/slurmbox-{getpass.getuser()}"))
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "scontrol")


class BoxError(Exception):
    """Something the box cannot do, in one sentence."""


@dataclass(frozen=True)
class Box:
    """A cluster of one machine."""

    state: Path
    """The folder under which it writes everything."""
    nodes: int = 4
    """How many slurmd it runs."""
    settings: str = ""
    """Lines of slurm.conf, in the place of its own of the same key."""
    accounting: bool = False
    """Whether it has a database and slurmdbd."""

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

    @property
    def accounted(self) -> bool:
        """Whether jobs are accounted, by the running box where there is one."""
        if self.conf.exists():
            return "AccountingStorageType=accounting_storage/slurmdbd" in self.conf.read_text().splitlines()
        return self.accounting

    @property
    def daemons(self) -> list[str]:
        """Names of its daemons, in the order in which they are ended."""
        return [*self.names, "slurmctld", *(accounting.DAEMONS if self.accounted else ()), "munged"]

    def environment(self) -> dict[str, str]:
        """What a process needs to talk to it."""
        return {**os.environ, "SLURM_CONF": str(self.conf), "PATH": search_path()}

    def up(self, patience_s: float = 90.0) -> None:
        """Start what is not running, resume nodes that were drained, and wait until every node takes jobs."""
        self._refuse_if_missing()
        if not self.conf.exists():
            _refuse_elsewhere()
            self._write()
        self._refuse_if_other()
        if not self._alive("munged"):
            run = self.state / "run"
            self._start("munged", [
                "munged", "--foreground", f"--key-file={self.state}/munge.key", f"--socket={run}/munge.sock",
                f"--pid-file={run}/munged.munge.pid", f"--log-file={self.state}/log/munged.log",
                f"--seed-file={self.state}/munge.seed", "--num-threads=2", "--force",
            ])  # fmt: skip
            _until(lambda: (run / "munge.sock").exists(), patience_s, "munged did not start")
        if self.accounted:
            self._up_accounting(patience_s)
        if not self._alive("slurmctld"):
            self._start("slurmctld", ["slurmctld", "-D", "-f", str(self.conf)])
        for name in self.names:
            self.start(name)
        _until(self._resumed, patience_s, f"the nodes did not become idle; see {self.state}/log")

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
        for name in self.daemons:
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
        """Send a daemon a signal: a node's slurmd by its name, or slurmctld, slurmdbd, mariadbd by theirs."""
        daemons = [daemon for daemon in self.daemons if daemon != "munged"]
        if name not in daemons:
            raise BoxError(f"{name} is not part of the box; {', '.join(daemons)} are.")
        self._kill(name, number)

    def _up_accounting(self, patience_s: float) -> None:
        """Start the database, then slurmdbd, and make the account known before slurmctld asks for it."""
        s = self.state
        try:
            if not self._alive("mariadbd"):
                accounting.install(s, self.environment())
                self._start("mariadbd", accounting.mariadbd(s))
            self._answers("mariadbd", lambda: accounting.database_answers(s), patience_s)
            if not self._alive("slurmdbd"):
                self._start("slurmdbd", accounting.slurmdbd(s), accounting.environment(s))
            self._answers("slurmdbd", lambda: accounting.slurmdbd_answers(s), patience_s)
            accounting.register(self.environment(), CLUSTER)
        except accounting.AccountingError as error:
            raise BoxError(str(error)) from error

    def _refuse_if_missing(self) -> None:
        programs = PROGRAMS + (accounting.PROGRAMS if self.accounted else ())
        missing = [name for name in programs if shutil.which(name, path=search_path()) is None]
        if missing:
            packages = "slurm-wlm munge" + (" slurmdbd mariadb-server" if self.accounted else "")
            raise BoxError(
                f"{', '.join(missing)} not found: `make slurm-install`, or apt-get install {packages}."
            )

    def _refuse_if_other(self) -> None:
        """A box that is up keeps the settings it was started with."""
        lines = self.conf.read_text().splitlines()
        other = [line for line in self.settings.splitlines() if line.strip() and line not in lines]
        if self.accounting and not self.accounted:
            other.append("accounting")
        if other:
            raise BoxError(f"the box in {self.state} was started without {', '.join(other)}: `down` ends it.")

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
        *ports, accounts = _free_ports(self.nodes + 2)
        text = self._conf(ports)
        if self.accounting:
            accounting.write(self.state, accounts, search_path())
            text = _with(text, accounting.settings(self.state, accounts))
        self.conf.write_text(_with(text, self.settings))

    def _conf(self, ports: list[int]) -> str:
        host, user, s = socket.gethostname(), getpass.getuser(), self.state
        nodes = "\n".join(
            f"NodeName=node{i + 1} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} "
            f"RealMemory={MEMORY_MB} Gres=gpu:fake:{GPUS} State=UNKNOWN"
            for i, port in enumerate(ports[1:])
        )
        return f"""\
ClusterName={CLUSTER}
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
"""

    def _start(self, name: str, command: list[str], variables: dict[str, str] | None = None) -> None:
        with open(self.state / "log" / f"{name}.out", "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment() | (variables or {}), start_new_session=True, cwd=self.state,
            )  # fmt: skip
        (self.state / "run" / f"{name}.pid").write_text(str(process.pid))
        # Its command line, by which it is known, can be empty for a moment after exec.
        _until(lambda: process.poll() is not None or self._alive(name), 10.0, f"{name} did not start")

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

    def _is_step(self, pid: str, name: bytes) -> bool:
        """Whether a process is a slurmstepd of this box: it renames itself, and keeps a file of ours open."""
        if not name.startswith(b"slurmstepd"):
            return False
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{descriptor}").startswith(f"{self.state}/"):
                    return True
        return False

    def _of_this_box(self) -> list[int]:
        """Processes whose environment or command line names this box: its daemons, and what its jobs left."""
        pids = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) in (os.getpid(), os.getppid()):
                continue
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                mine = f"SLURM_CONF={self.conf}".encode()
                variables = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
                in_job = mine in variables and any(v.startswith(b"SLURM_JOB_ID=") for v in variables)
                if (
                    in_job
                    or self._is_step(entry, words[0])
                    or any(
                        str(self.state).encode() in word
                        for word in words[:6]
                        if b"slurm" in words[0] or b"mariadb" in words[0]
                    )
                ):
                    pids.append(int(entry))
        return pids

    def _answers(self, name: str, true: Callable[[], bool], patience_s: float) -> None:
        """Wait until a daemon answers; one that ended never will."""
        see = f"see {self.state}/log/{name}.log"
        _until(lambda: true() or not self._alive(name), patience_s, f"{name} did not answer; {see}")
        if not self._alive(name):
            raise BoxError(f"{name} ended; {see}.")

    def _resumed(self) -> bool:
        """Whether every node takes jobs; those that are drained or down are resumed."""
        if self._ready():
            return True
        for node, state in self._states().items():
            if "drain" in state or "down" in state:
                command = ["scontrol", "update", f"nodename={node}", "state=resume"]
                subprocess.run(command, env=self.environment(), capture_output=True, timeout=20)
        return False

    def _states(self) -> dict[str, str]:
        """Node -> Slurm's word for its state."""
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-p", "gpu", "-o", "%N %T"], env=self.environment(), capture_output=True,
            text=True, timeout=20,
        )  # fmt: skip
        return dict(line.split() for line in done.stdout.splitlines())

    def _ready(self) -> bool:
        if not self._alive("slurmctld"):
            raise BoxError(f"slurmctld ended: {_last_words(self.state / 'log' / 'slurmctld.out')}")
        states = self._states()
        good = ("idle", "mixed", "allocated", "completing")
        return len(states) == len(self.names) and all(state.rstrip("*") in good for state in states.values())


def search_path() -> str:
    """Daemons live in sbin, which is not on every user's path."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"])


def _refuse_elsewhere() -> None:
    """Slurm, told not to listen everywhere, listens where the host's name leads; the box is reached there."""
    host, address = socket.gethostname(), "nowhere"
    with contextlib.suppress(OSError):
        address = socket.gethostbyname(host)
    if address != "127.0.0.1":
        raise BoxError(
            f"the name of this host leads to {address}, where Slurm would listen; a line `127.0.0.1 {host}` "
            "before the others in /etc/hosts keeps it on loopback."
        )


def _free_ports(count: int) -> list[int]:
    """Loopback ports that are free now."""
    held = [socket.socket() for _ in range(count)]
    try:
        for sock in held:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in held]
    finally:
        for sock in held:
            sock.close()


def _with(conf: str, settings: str) -> str:
    """slurm.conf with settings for its own lines of the same key; nodes and partitions are added."""
    added = [line for line in settings.splitlines() if line.strip()]
    replaced = {_key(line) for line in added} - {"nodename", "partitionname"}
    return "\n".join([line for line in conf.splitlines() if _key(line) not in replaced] + added) + "\n"


def _key(line: str) -> str:
    return line.partition("=")[0].strip().lower()


def _last_words(file: Path) -> str:
    """The end of what a daemon said: the setting it does not know stands one line before its end."""
    return "; ".join(file.read_text(errors="replace").strip().splitlines()[-2:]) or "it said nothing"


def _until(true: Callable[[], bool], patience_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > deadline:
            raise BoxError(f"{otherwise}.")
        time.sleep(0.05)


def _setting(text: str) -> str:
    if not re.fullmatch(r"\w+=\S.*", text):
        raise argparse.ArgumentTypeError(f"{text} is not KEY=VALUE")
    return text


def _arguments() -> argparse.Namespace:
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument("--state", type=Path, help="its folder ($SLURMBOX)")
    shared.add_argument("--nodes", type=int)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[shared]
    )
    verbs = parser.add_subparsers(dest="do", required=True)
    up = verbs.add_parser("up", parents=[shared], argument_default=argparse.SUPPRESS)
    up.add_argument("--accounting", action="store_true", help="with slurmdbd and its database")
    up.add_argument(
        "--set", dest="settings", action="append", type=_setting, metavar="KEY=VALUE",
        help="a line of slurm.conf, in the place of the one with that key; repeatable",
    )  # fmt: skip
    for name in ("down", "env"):
        verbs.add_parser(name, parents=[shared])
    for name in ("run", "kill", "start"):
        verbs.add_parser(name).add_argument("rest", nargs=argparse.REMAINDER)
    # Defaults given to a parser would overrule what stands before the verb.
    defaults = argparse.Namespace(state=DEFAULT_STATE, nodes=4, accounting=False, settings=[], rest=[])
    return parser.parse_args(namespace=defaults)


def main() -> int:
    """The command line."""
    arguments = _arguments()
    box = Box(
        arguments.state.absolute(), arguments.nodes, "\n".join(arguments.settings), arguments.accounting
    )
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
