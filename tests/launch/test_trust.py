"""Nobody runs code as somebody else: what a task runs is its own user's word, Python's path is its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import sweepctl
from sweepctl.errors import DamagedFile, RequestError, StorageError
from sweepctl.launch.machine import ask_torch
from sweepctl.launch.ownership import PRIVATE, READABLE, is_own, protected_folder, read_own_json
from sweepctl.launch.slurm.records import Array, Records, SlurmOrder, author, new_token
from sweepctl.launch.workers import Pool
from sweepctl.spec.build import plain
from sweepctl.store.files import write_json, write_text
from sweepctl.store.protocol import Died
from sweepctl.store.workspace import Workspace
from tests.launch.settings import resources, slurm

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user can write, as a team's is by its group."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    before = os.umask(0)
    folder.chmod(0o777)
    yield folder
    os.umask(before)
    shutil.rmtree(folder)


def by_another(command: str) -> bool:
    """Whether another user can do this."""
    done = subprocess.run(["sh", "-c", command], user=NOBODY, group=NOBODY, extra_groups=[])
    return done.returncode == 0


def an_order(**changes: object) -> SlurmOrder:
    return SlurmOrder({}, (), plain(slurm(**changes)), "code")


def an_array(order: SlurmOrder) -> Array:
    return Array(new_token(), order.hash, "a.name", "memory", ("job",), resources(), by=author())


@as_root
def test_nobody_else_writes_what_a_task_runs(shared: Path) -> None:
    records = Records(Workspace(shared).sweep("team"))
    order = an_order()
    records.write_order(order)
    array = an_array(order)
    folder = records.intend(array)
    records.write_id(array.token, "7")
    assert by_another(f"cat {folder}/array.json {folder}/id > /dev/null")
    for path in (folder / "array.json", folder / "id", records.folder / f"orders/0/{order.hash}.json"):
        for command in (f"echo x >> {path}", f"rm -f {path} && test ! -e {path}", f"mv {path} {path}.old"):
            assert not by_another(f"{command} 2>/dev/null"), command
        assert not by_another(f"ln -s /tmp {path.parent}/new 2>/dev/null")
        assert not by_another(f"mv {path.parent} {path.parent}.old 2>/dev/null")
    assert by_another(f"mkdir {records.folder}/arrays/theirs {records.folder}/orders/{NOBODY}")


@as_root
def test_an_order_of_another_user_is_not_taken(shared: Path) -> None:
    """Newer, of its own hash, in the place of an older version's or of this one's."""
    records = Records(Workspace(shared).sweep("team"))
    mine, theirs = an_order(), an_order(python="/tmp/theirs")
    records.write_order(mine)
    for folder in (records.folder / "orders" / "0", records.folder / "orders"):
        path = folder / f"{theirs.hash}.json"
        write_json(path, plain(theirs))
        os.chown(path, NOBODY, NOBODY)
        assert records.newest_order() == mine
        with pytest.raises(DamagedFile, match="somebody else"):
            records.order(theirs.hash)


def test_an_order_is_held_against_its_name(tmp_path: Path) -> None:
    records = Records(Workspace(tmp_path).sweep("edited"))
    mine, other = an_order(), an_order(python="/tmp/other")
    records.write_order(mine)
    write_json(records.folder / "orders" / str(os.getuid()) / f"{mine.hash}.json", plain(other), READABLE)
    with pytest.raises(DamagedFile, match="not what was ordered"):
        records.order(mine.hash)


def test_what_others_could_have_written_is_no_array_of_a_task(tmp_path: Path) -> None:
    records = Records(Workspace(tmp_path).sweep("writable"))
    array = an_array(an_order())
    path = records.intend(array) / "array.json"
    assert records.own_array(array.token) == array
    path.chmod(0o664)
    with pytest.raises(DamagedFile, match="somebody else"):
        records.own_array(array.token)
    path.unlink()
    elsewhere = tmp_path / "elsewhere.json"
    write_json(elsewhere, plain(array), READABLE)
    path.symlink_to(elsewhere)
    with pytest.raises(DamagedFile, match="a link"):
        read_own_json(path)


def test_an_array_is_whose_file_it_is(tmp_path: Path) -> None:
    """Whatever it says of itself: nothing is released or cancelled on its word."""
    records = Records(Workspace(tmp_path).sweep("claims"))
    lie = Array(
        new_token(), "x", "a.b", "memory", ("job",), resources(), held=True, by={**author(), "user": 4321}
    )
    folder = records.intend(lie)
    write_text(folder / "id", "7", READABLE)
    [array] = records.arrays()
    assert array.user == os.getuid() and records.held_tasks({"job"}, "memory") == ["7_0"]
    if os.getuid() == 0:
        os.chown(folder / "array.json", NOBODY, NOBODY)
        assert not records.arrays()[0].is_own
        assert records.held_tasks({"job"}, "memory") == [] and records.names() == {}


@pytest.mark.parametrize("text", ["", "7,8", "-u root", "7_0"])
def test_an_id_is_a_number(tmp_path: Path, text: str) -> None:
    records = Records(Workspace(tmp_path).sweep("numbers"))
    array = an_array(an_order())
    write_text(records.intend(array) / "id", text, READABLE)
    assert records.id(array.token) is None


@as_root
def test_somebody_elses_folder_is_refused_by_its_path(shared: Path) -> None:
    theirs = shared / "slurm"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(RequestError, match=str(theirs)):
        protected_folder(theirs)


def test_a_private_file_is_private_from_its_first_moment(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_text(tmp_path / "secret", "x", PRIVATE)
    finally:
        os.umask(before)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600 and is_own(tmp_path / "secret")


MODULES = ("statistics", "typer", "rich", "safetensors", "submitit", "torch", "sweepctl")


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules that leave a mark where they are imported; PYTHONPATH has an empty
    part."""
    mark = tmp_path / "mark"
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(
            f"open({str(mark)!r}, 'a').write(__name__)\nraise SystemExit(9)\n"
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{Path(sweepctl.__file__).parents[1]}{os.pathsep}")
    return mark


def test_workers_take_no_module_from_the_current_folder(trap: Path, tmp_path: Path) -> None:
    pool = Pool(1, 1, [], tmp_path / "logs")
    try:
        while not pool.workers[0].ready:
            for worker, event in pool.events(1.0):
                assert not isinstance(event, Died), worker.log.read_text()
    finally:
        pool.stop()
    assert "error" not in ask_torch() and not trap.exists()


def test_the_command_takes_no_module_from_the_current_folder(
    trap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(sweepctl.__file__).parents[1]))
    (trap.parent / "sweepctl.py").unlink()  # found before a line of ours is run
    done = subprocess.run([sys.executable, "-m", "sweepctl", "launch", "--help"], capture_output=True)
    assert done.returncode == 0 and not trap.exists()


@as_root
def test_an_array_that_is_closed_to_us_stops_nothing(shared: Path) -> None:
    records = Records(Workspace(shared).sweep("team"))
    theirs, mine = an_array(an_order()), an_array(an_order())
    records.intend(theirs).chmod(0o700)
    folder = records.intend(mine)
    os.chown(folder, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        assert [array.token for array in records.arrays()] == [mine.token]
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"by": {"at": "x"}}', "\0"])
def test_a_stray_array_stops_nothing(tmp_path: Path, text: str) -> None:
    records = Records(Workspace(tmp_path).sweep("stray"))
    mine, stray = an_array(an_order()), an_array(an_order())
    records.intend(mine)
    (records.intend(stray) / "array.json").write_text(text)
    assert [array.token for array in records.arrays()] == [mine.token]


def test_a_log_is_not_written_by_a_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("as it was\n")
    (tmp_path / "log").symlink_to(elsewhere)
    with pytest.raises(StorageError, match="log"):
        Pool(1, 1, [], tmp_path, tmp_path / "log")
    assert elsewhere.read_text() == "as it was\n"
