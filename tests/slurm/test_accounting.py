"""A box with accounting: jobs are remembered by sacct, limits are enforced, and nothing of it stays."""

from __future__ import annotations

import getpass
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import BOX
from .test_box import ask, listening, over, submit, until


def test_up_is_idempotent(accounting_box: Any) -> None:
    before = [accounting_box._pid(name) for name in accounting_box.daemons]
    accounting_box.up()
    assert [accounting_box._pid(name) for name in accounting_box.daemons] == before
    assert all(accounting_box._alive(name) for name in ("slurmdbd", "mariadbd"))


def test_it_listens_on_loopback_only(accounting_box: Any) -> None:
    """slurmctld, slurmdbd and the nodes; the database has no port at all."""
    addresses = listening(accounting_box)
    assert len(addresses) == len(accounting_box.names) + 2
    assert {address.split(":")[0] for address in addresses} == {"0100007F"}
    assert not listening(accounting_box, ["mariadbd"])


@pytest.mark.parametrize(("script", "ends"), [("true", "COMPLETED|0:0"), ("exit 3", "FAILED|3:0")])
def test_a_job_is_in_sacct_with_its_state(
    accounting_box: Any, tmp_path: Path, script: str, ends: str
) -> None:
    job = submit(accounting_box, tmp_path, script)
    line = ["sacct", "-nPX", "-j", job, "-o", "Account,QOS,State,ExitCode"]
    until(lambda: ask(accounting_box, *line) == f"research|normal|{ends}")


def test_a_job_over_the_limit_of_its_qos_is_refused(accounting_box: Any) -> None:
    command = ["sbatch", "--hold", "--qos=small", "--output=/dev/null", "--wrap", "true"]
    done = [
        subprocess.run(command, env=accounting_box.environment(), capture_output=True, text=True)
        for _ in range(6)
    ]
    assert [submission.returncode for submission in done] == [0, 0, 0, 0, 0, 1]
    assert done[-1].stderr == (
        "sbatch: error: QOSMaxSubmitJobPerUserLimit\n"
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
        "(job submit limit, user's size and/or time limits)\n"
    )
    limits = ask(
        accounting_box, "scontrol", "-o", "show", "assoc_mgr", "flags=qos", f"users={getpass.getuser()}"
    )
    assert "MaxSubmitJobsPU=5(5)" in limits
    ask(accounting_box, "scancel", "--qos=small", "--state=PENDING")


def test_a_setting_takes_the_place_of_the_line_of_its_key(accounting_box: Any) -> None:
    """The box of these tests is started with MaxArraySize=101."""
    assert "MaxArraySize            = 101" in ask(accounting_box, "scontrol", "show", "config")
    other = BOX.Box(accounting_box.state, settings="KillWait=6")
    with pytest.raises(BOX.BoxError, match="started without KillWait=6"):
        other.up()
    conf = BOX._with("KillWait=5\nNodeName=a\n", "killwait=6\nNodeName=b\nMaxArraySize=101")
    assert conf.splitlines() == ["NodeName=a", "killwait=6", "NodeName=b", "MaxArraySize=101"]


def test_a_setting_slurm_does_not_know_is_named(tmp_path: Path) -> None:
    box = BOX.Box(tmp_path / "box", nodes=1, settings="Nonsense=1")
    with pytest.raises(BOX.BoxError, match="unrecognized key: Nonsense"):
        box.up()
    box.down()
    assert not box.state.exists()


def test_it_ends_cleanly_and_comes_back_after_a_crash(tmp_path: Path) -> None:
    """By the command line, as a user does; its database is killed in between."""
    box = BOX.Box(tmp_path / "box", nodes=1)
    run = [BOX.sys.executable, BOX.__spec__.origin, f"--state={box.state}"]
    subprocess.run([*run, "--nodes=1", "up", "--accounting"], check=True)
    first = box._pid("mariadbd")
    box.kill("mariadbd")
    subprocess.run([*run, "up", "--accounting"], check=True)
    assert box._pid("mariadbd") != first
    assert "slurmbox" in ask(box, "sacctmgr", "-nP", "show", "cluster")
    pids = [box._pid(name) for name in box.daemons]
    subprocess.run([*run, "down"], check=True)
    assert not box.state.exists() and not box._of_this_box()
    assert len(pids) == 5 and all(over(pid) for pid in [*pids, first])


def test_what_it_lacks_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    which = BOX.shutil.which
    monkeypatch.setattr(
        BOX.shutil, "which", lambda name, path: None if name == "slurmdbd" else which(name, path=path)
    )
    with pytest.raises(BOX.BoxError, match=r"slurmdbd not found: `make slurm-install`"):
        BOX.Box(tmp_path / "box", accounting=True).up()
    assert not (tmp_path / "box").exists()
