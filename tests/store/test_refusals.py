"""A file system that refuses, or whose answers get lost: tried again as what it is, never taken for damage,
absence or death."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from sweepctl.errors import StorageError
from sweepctl.store import attempts, checkpoints, files
from sweepctl.store.ends import End
from sweepctl.store.files import read_json, write_json
from sweepctl.store.job import JobFolder
from sweepctl.store.result import Result
from sweepctl.train.job import Outcome, run
from tests.conftest import Planner, manifest, only, run_all
from tests.refusals import Refusals
from tests.users import as_nobody


@pytest.mark.parametrize("code", [errno.EIO])
@pytest.mark.parametrize("lost", [False, True], ids=["refused", "lost"])
def test_a_call_that_fails_anywhere_costs_a_job_nothing(planned: Planner, code: int, lost: bool) -> None:
    """Whichever call of a branch's job it is: the attempt ends as a refusal of storage, if at all, and what
    is trained then is what would have been trained."""
    sweep_jobs = planned(budget__tokens=[1280], ladder__depths=[1])
    run_all(sweep_jobs)
    [trunk], [branch] = only(sweep_jobs, "trunk"), only(sweep_jobs, "branch")
    store, orders = sweep_jobs.sweep.workspace.root / "store", manifest(sweep_jobs, branch)
    expected = branch.folder.result()

    def attempt(refusals: Refusals) -> Outcome:
        (branch.folder.path / "result.json").unlink(missing_ok=True)
        for step in checkpoints.steps(branch.folder):
            checkpoints.remove(checkpoints.at(branch.folder, step))
        with refusals():
            return run(orders, threading.Event(), lambda event: None)

    undisturbed_calls = Refusals(store, 0, code)
    assert attempt(undisturbed_calls).why is End.DONE and undisturbed_calls.calls > 80
    for at in range(1, undisturbed_calls.calls + 1, undisturbed_calls.calls // 30):
        refusals = Refusals(store, at, code, lost)
        outcome = attempt(refusals)
        assert refusals.refused
        assert outcome.why in (End.DONE, End.STORAGE), (refusals.refused, outcome)
        if outcome.owns_job:  # then its process ends
            attempts.newest(branch.folder).end(End.STORAGE)
        if not branch.folder.has_result():
            assert run(orders, threading.Event(), lambda event: None).why is End.DONE, refusals.refused
        assert branch.folder.result().loss_nats == expected.loss_nats, refusals.refused
        assert attempts.newest(branch.folder).ended, refusals.refused
        assert not list(store.rglob("damaged-*")), refusals.refused
    assert checkpoints.steps(trunk.folder) == [15]


@pytest.mark.parametrize(
    "code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.EDQUOT, errno.EACCES]
)
def test_what_cannot_be_read_is_neither_damaged_nor_absent(tmp_path: Path, code: int) -> None:
    folder = JobFolder(tmp_path / "ab" / "abcd", "abcd")
    save(folder, 1)
    folder.write_result(Result(End.DONE, 1))
    looks = {
        "open": [folder.result, folder.record, lambda: checkpoints.newest(folder, own=True)],
        "listdir": [folder.wishes, lambda: checkpoints.steps(folder), lambda: attempts.newest(folder)],
    }
    for look in [*looks["open"], *looks["listdir"]]:
        with Refusals(tmp_path, 1, code)(), pytest.raises(StorageError, match=f"Cannot read {tmp_path}"):
            look()
    assert checkpoints.steps(folder) == [1]


def save(folder: JobFolder, step: int) -> None:
    def write(scratch: Path) -> None:
        os.close(os.open(scratch / "weights", os.O_CREAT, 0o600))  # as the library of weights makes its files

    checkpoints.save(folder, step, 1, None, write, lambda: True)


@pytest.mark.parametrize("code", [errno.EIO, errno.EEXIST, errno.ENOENT, errno.ETIMEDOUT])
def test_a_claim_whose_answer_was_lost_is_a_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    folder = JobFolder(tmp_path / "ab" / "abcd", "abcd")
    rename = os.rename

    def without_answer(source: Path, target: Path) -> None:
        rename(source, target)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "rename", without_answer)
    assert attempts.claim(folder, {}).number == 1
    assert attempts.claim(folder, {}) is None


def test_a_claim_of_which_nothing_is_known_is_taken_up_by_its_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = JobFolder(tmp_path / "ab" / "abcd", "abcd")
    rename = os.rename

    def breaks(source: Path, target: Path) -> None:
        rename(source, target)
        monkeypatch.setattr(attempts, "read_json", refuses)
        raise OSError(errno.EIO, "")

    def refuses(path: Path) -> None:
        raise StorageError(f"Cannot read {path}.")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", breaks)
        with pytest.raises(StorageError):
            attempts.claim(folder, {})
    monkeypatch.undo()
    assert attempts.claim(folder, {}).number == 1


def test_a_result_whose_folder_could_not_be_synced_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(folder: Path) -> None:
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(files, "sync_folder", refuses)
    write_json(tmp_path / "result.json", {"a": 1})
    assert read_json(tmp_path / "result.json") == {"a": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def test_checkpoints_follow_the_umask(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "ab" / "abcd", "abcd")
    before = os.umask(0o027)
    try:
        save(folder, 1)
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in checkpoints.at(folder, 1).path.iterdir()}
    assert modes == {"weights": 0o640, "manifest.json": 0o640}


def test_a_colleague_who_may_not_read_a_checkpoint_leaves_it_alone(shared_folder: Path) -> None:
    folder = JobFolder(shared_folder / "ab" / "abcd", "abcd")
    save(folder, 1)
    save(folder, 2)
    folder.checkpoints.chmod(0o777)
    (checkpoints.at(folder, 2).path / "weights").chmod(0o600)
    refused = as_nobody(lambda: checkpoints.newest(folder, own=True))
    assert isinstance(refused, StorageError) and "permission is denied" in str(refused)
    assert checkpoints.steps(folder) == [1, 2]


def test_a_trunk_that_is_not_ones_own_stays_as_it_is(tmp_path: Path) -> None:
    trunk = JobFolder(tmp_path / "ab" / "abcd", "abcd")
    save(trunk, 1)
    save(trunk, 2)
    (checkpoints.at(trunk, 2).path / "weights").unlink()
    assert checkpoints.newest(trunk).step == 1
    assert checkpoints.steps(trunk) == [1, 2]


def test_a_process_that_cannot_be_seen_lives(shared_folder: Path) -> None:
    """As where /proc is mounted with hidepid."""
    folder = JobFolder(shared_folder / "ab" / "abcd", "abcd")
    mine = attempts.claim(folder, {})
    for place in (folder.path, folder.attempts):
        place.chmod(0o777)
    start = as_nobody(lambda: attempts.process_start(os.getppid()), hidepid=True)
    if start is not None:
        pytest.skip("/proc cannot be mounted anew here")
    assert as_nobody(lambda: attempts.newest(folder).alive(), hidepid=True) is True
    assert as_nobody(lambda: attempts.claim(folder, {}), hidepid=True) is None
    assert mine.alive() and not attempts.superseded(folder, mine)
    assert not attempts.process_lives(2**22 + 1, None)
