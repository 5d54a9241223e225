"""Who owns a job: exactly one, and nobody who might be alive is robbed."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sweepctl.store import attempts
from sweepctl.store.job import JobFolder


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path / "ab" / "abcd", "abcd")


def forge(folder: JobFolder, **facts: object) -> attempts.Attempt:
    """An attempt as some process would have left it."""
    attempt = attempts.claim(folder, {})
    attempt.update(**facts)
    return attempt


def test_a_living_owner_keeps_its_job(folder: JobFolder) -> None:
    first = attempts.claim(folder, {})
    assert attempts.claim(folder, {}) is None
    first.end("stopped")
    assert attempts.claim(folder, {}).number == 2


def test_a_dead_process_loses_it_at_once(folder: JobFolder) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    forge(folder, pid=child.pid, process_start=attempts.process_start(child.pid))
    assert attempts.claim(folder, {}) is None
    child.communicate()
    assert attempts.claim(folder, {}).number == 2


def test_a_reused_process_id_is_not_mistaken(folder: JobFolder) -> None:
    forge(folder, pid=os.getpid(), process_start="1")
    assert attempts.claim(folder, {}) is not None


def test_a_rebooted_machine_has_no_old_owners(folder: JobFolder) -> None:
    owner = forge(folder, boot="another boot")
    age(owner.path, attempts.LEASE_S + 60)
    assert attempts.claim(folder, {}) is not None


def test_another_host_counts_as_alive_until_its_lease_is_over(folder: JobFolder) -> None:
    owner = forge(folder, host="elsewhere", boot="b")
    owner.beat(5, 320)
    assert owner.alive() and attempts.claim(folder, {}) is None
    age(owner.path, attempts.LEASE_S + 60)
    assert not owner.alive() and attempts.claim(folder, {}) is not None


def test_an_owner_is_not_robbed_however_long_it_says_nothing_of_its_progress(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread renews ownership: an evaluation, a checkpoint or a first step may outlast the lease."""
    owner = forge(folder, host="elsewhere", boot="b")
    owner.beat(5, 320)
    age(owner.path, attempts.LEASE_S + 60)
    renewals = threading.Semaphore(0)
    renew = attempts.Attempt.renew

    def counted(self: attempts.Attempt) -> None:
        renew(self)
        renewals.release()

    monkeypatch.setattr(attempts, "RENEW_S", 0.001)
    monkeypatch.setattr(attempts.Attempt, "renew", counted)
    with attempts.renewed(owner):
        assert renewals.acquire(timeout=60)
        assert owner.alive() and attempts.claim(folder, {}) is None
        assert owner.progress() == {"step": 5, "tokens": 320}
    age(owner.path, attempts.LEASE_S + 60)
    assert attempts.claim(folder, {}) is not None


def age(path: Path, seconds: float) -> None:
    for file in path.iterdir():
        then = file.stat().st_mtime - seconds
        os.utime(file, (then, then))


def test_a_newer_owner_is_noticed(folder: JobFolder) -> None:
    first = forge(folder, host="elsewhere", boot="b")
    age(first.path, attempts.LEASE_S + 60)
    assert not attempts.superseded(folder, first)
    attempts.claim(folder, {})
    assert attempts.superseded(folder, first)


def test_a_damaged_record_blocks_the_job_only_as_long_as_its_owner_may_live(folder: JobFolder) -> None:
    owner = attempts.claim(folder, {})
    (owner.path / "attempt.json").write_text("{")
    assert attempts.claim(folder, {}) is None
    long_ago = time.time() - 2 * attempts.LEASE_S
    for path in owner.path.iterdir():
        os.utime(path, (long_ago, long_ago))
    assert attempts.claim(folder, {}).number == 2


def race(path: str, barrier, results) -> None:  # type: ignore[no-untyped-def]
    barrier.wait()
    attempt = attempts.claim(JobFolder(Path(path), "abcd"), {})
    results.put(attempt.number if attempt else 0)
    barrier.wait()


def test_of_many_at_once_one_wins(folder: JobFolder) -> None:
    context = multiprocessing.get_context("spawn")
    count = 6
    barrier, results = context.Barrier(count), context.Queue()
    people = [context.Process(target=race, args=(str(folder.path), barrier, results)) for _ in range(count)]
    for process in people:
        process.start()
    numbers = sorted(results.get() for _ in people)
    for process in people:
        process.join()
    assert numbers == [0] * (count - 1) + [1]


def test_the_record_names_this_process(folder: JobFolder) -> None:
    attempt = attempts.claim(folder, {"launcher": "test"})
    record = json.loads((attempt.path / "attempt.json").read_text())
    assert (record["pid"], record["host"], record["launcher"]) == (os.getpid(), socket.gethostname(), "test")
