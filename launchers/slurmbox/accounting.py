"""What a box with accounting has besides: a MariaDB on a socket, slurmdbd on loopback, an account and a QOS.

Who calls the box belongs to the account `research` and needs no option of sbatch for it. The QOS `small` lets
a user have five jobs at once: more are refused, which is what a submit limit is tried against.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from pathlib import Path

PROGRAMS = ("mariadbd", "mariadb-install-db", "slurmdbd", "sacctmgr", "sacct")
DAEMONS = ("slurmdbd", "mariadbd")
ACCOUNT, QOS, SUBMIT_LIMIT = "research", "small", 5


class AccountingError(Exception):
    """Why there is no accounting, in one sentence."""


def settings(state: Path, port: int) -> str:
    """The lines of slurm.conf that differ from a box without accounting."""
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={state}/run/munge.sock
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu"""


def write(state: Path, port: int, path: str) -> None:
    """slurmdbd.conf, and the link by which slurmdbd is started."""
    conf = state / "slurmdbd.conf"
    conf.touch(mode=0o600)  # slurmdbd reads no other
    # Like slurm.conf's: without NoInAddrAny it listens on every address.
    conf.write_text(f"""\
AuthType=auth/munge
AuthInfo=socket={state}/run/munge.sock
CommunicationParameters=NoInAddrAny
DbdHost={socket.gethostname()}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={getpass.getuser()}
PidFile={state}/run/slurmdbd.slurm.pid
LogFile={state}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={getpass.getuser()}
StorageLoc=slurmbox
""")
    # No option of slurmdbd names its folder. Started by this link, its command line tells whose it is.
    (state / "bin").mkdir()
    program = shutil.which("slurmdbd", path=path)
    assert program is not None
    (state / "bin" / "slurmdbd").symlink_to(program)


def slurmdbd(state: Path) -> list[str]:
    """Its command."""
    return [str(state / "bin" / "slurmdbd"), "-D"]


def environment(state: Path) -> dict[str, str]:
    """What slurmdbd needs besides: no setting of its own names the database's socket."""
    return {"MYSQL_UNIX_PORT": str(_socket(state))}


def mariadbd(state: Path) -> list[str]:
    """Its command: no file of the machine is read, no port is open, and nothing is synced to the disk."""
    return [
        "mariadbd", *_common(state), f"--socket={_socket(state)}",
        f"--pid-file={state}/run/mariadbd.mysql.pid", f"--log-error={state}/log/mariadbd.log",
        "--skip-networking", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0",
        "--innodb-lock-wait-timeout=900",
    ]  # fmt: skip


def install(state: Path, environment: dict[str, str]) -> None:
    """An empty database whose one user is who calls the box, known by the socket and not by a password."""
    if (state / "db").exists():
        return
    done = subprocess.run(
        ["mariadb-install-db", *_common(state, "db.new"), "--skip-test-db", "--skip-name-resolve",
         "--auth-root-authentication-method=socket", f"--auth-root-socket-user={getpass.getuser()}"],
        env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=state,
    )  # fmt: skip
    (state / "log" / "mariadb-install-db.out").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise AccountingError(f"mariadb-install-db failed; see {state}/log/mariadb-install-db.out.")
    (state / "db.new").rename(state / "db")


def database_answers(state: Path) -> bool:
    """Whether something listens on the database's socket."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(_socket(state))) == 0


def slurmdbd_answers(state: Path) -> bool:
    """Whether something listens on slurmdbd's port."""
    conf = (state / "slurmdbd.conf").read_text()
    [port] = [line.partition("=")[2] for line in conf.splitlines() if line.startswith("DbdPort=")]
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", int(port))) == 0


def register(environment: dict[str, str], cluster: str) -> None:
    """Make the cluster, the QOS, the account and its user known, where they are not."""
    if _registered(environment, cluster):
        return
    user = getpass.getuser()
    said = [
        _sacctmgr(environment, *command)[1]
        for command in (
            ("add", "cluster", cluster),
            ("add", "qos", QOS, f"MaxSubmitJobsPerUser={SUBMIT_LIMIT}"),
            ("add", "account", ACCOUNT, f"Cluster={cluster}", f"QOS=normal,{QOS}", "DefaultQOS=normal"),
            ("add", "user", user, f"Account={ACCOUNT}", f"Cluster={cluster}"),
            # root is a user of the account root from the start
            ("modify", "user", user, "set", f"DefaultAccount={ACCOUNT}"),
        )
    ]
    if not _registered(environment, cluster):
        raise AccountingError(f"the account {ACCOUNT} could not be made: {' '.join(''.join(said).split())}")


def _registered(environment: dict[str, str], cluster: str) -> bool:
    user = getpass.getuser()
    code, said = _sacctmgr(
        environment, "show", "user", user, "WithAssoc", f"Cluster={cluster}", f"Account={ACCOUNT}",
        "format=DefaultAccount,DefaultQOS,QOS",
    )  # fmt: skip
    return code == 0 and said.strip() == f"{ACCOUNT}|normal|normal,{QOS}"


def _sacctmgr(environment: dict[str, str], *words: str) -> tuple[int, str]:
    try:
        done = subprocess.run(
            ["sacctmgr", "--immediate", "--noheader", "--parsable2", *words], env=environment,
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise AccountingError("slurmdbd does not answer sacctmgr.") from error
    return done.returncode, done.stdout + done.stderr


def _common(state: Path, folder: str = "db") -> list[str]:
    """What the database's installer and the database itself are both told."""
    # root must say whom it runs as; nobody else may
    return [
        "--no-defaults",
        f"--datadir={state}/{folder}",
        f"--tmpdir={state}/run",
        *(["--user=root"] if os.getuid() == 0 else []),
    ]


def _socket(state: Path) -> Path:
    return state / "run" / "mariadbd.sock"
