"""A full disk or a read-only folder, on a real small file system: one clear error, nothing durable lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweepctl.errors import StorageError
from sweepctl.store import checkpoints
from sweepctl.store.files import write_json
from sweepctl.store.workspace import Workspace
from tests.conftest import Planner, only, run_all, run_job


@pytest.fixture
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 2 MB if nothing else is asked for."""
    size = getattr(request, "param", "2m")
    mount = tmp_path / "small"
    mount.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount)], capture_output=True
        ).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Take all of the free space but `leave` bytes."""
    free = os.statvfs(folder)
    ballast = folder / "ballast"
    ballast.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - leave))
    return ballast


@pytest.fixture
def on_small(small: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of the workspace on the small file system."""
    (workspace.root / "store").symlink_to(small)
    return small


def test_a_full_disk_is_one_sentence_and_the_job_goes_on_later(on_small: Path, planned: Planner) -> None:
    sweep_jobs = planned()
    sweep_jobs.make_wishes()
    trunk = only(sweep_jobs, "trunk")[0]
    run_job(sweep_jobs, trunk)
    saved = checkpoints.steps(trunk.folder)
    ballast = fill(on_small, 40_000)
    branch = sweep_jobs.branches[trunk.job.id][0]
    outcome = run_job(sweep_jobs, branch)
    assert outcome.why == "storage"
    assert "the disk is full" in outcome.message and "intact" in outcome.message
    assert checkpoints.steps(trunk.folder) == saved
    assert not branch.folder.has_result()
    checkpoints.newest(trunk.folder).verify()
    ballast.unlink()
    run_all(sweep_jobs)
    shutil.rmtree(on_small, ignore_errors=True)


def test_nothing_half_written_remains(on_small: Path) -> None:
    (on_small / "a.json").write_text("{}")
    ballast = fill(on_small, 8192)
    with pytest.raises(StorageError, match="the disk is full"):
        write_json(on_small / "a.json", {"much": "x" * 100_000})
    assert (on_small / "a.json").read_text() == "{}"
    assert sorted(p.name for p in on_small.iterdir()) == ["a.json", "ballast"]
    ballast.unlink()


def test_a_read_only_folder_is_one_sentence(on_small: Path, planned: Planner) -> None:
    sweep_jobs = planned()
    subprocess.run(["mount", "-o", "remount,ro", str(on_small)], check=True)
    with pytest.raises(StorageError, match="read-only"):
        sweep_jobs.make_wishes()
    from sweepctl.store.attempts import claim

    with pytest.raises(StorageError, match="read-only"):
        claim(only(sweep_jobs, "trunk")[0].folder, {})
