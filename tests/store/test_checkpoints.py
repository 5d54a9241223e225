"""Checkpoints are whole or not there, damage is found, and the one before is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweepctl.errors import DamagedFile, RequestError
from sweepctl.store import attempts, checkpoints
from sweepctl.store.job import JobFolder
from tests.conftest import Planner, only, run_all, run_job


def save(folder: JobFolder, step: int, content: bytes = b"weights", owner: bool = True) -> None:
    checkpoints.save(
        folder,
        step,
        1,
        None,
        lambda scratch: (scratch / "weights.bin").write_bytes(content) and None,
        lambda: owner,
    )


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path / "ab" / "abcd", "abcd")


def test_saved_is_found_newest_first(folder: JobFolder) -> None:
    for step in (10, 30, 20):
        save(folder, step)
    assert checkpoints.steps(folder) == [10, 20, 30]
    assert checkpoints.newest(folder).step == 30
    assert checkpoints.newest(folder, 29).step == 20
    assert checkpoints.newest(folder, 5) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.data())
def test_any_flipped_bit_or_cut_file_is_found(folder: JobFolder, data: st.DataObject) -> None:
    content = bytes(range(200))
    for step in (1, 2):
        if step not in checkpoints.steps(folder):
            save(folder, step, content)
    target = checkpoints.at(folder, 2).path / "weights.bin"
    damaged = bytearray(content)
    if data.draw(st.booleans()):
        damaged[data.draw(st.integers(0, 199))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del damaged[data.draw(st.integers(0, 199)) :]
    target.write_bytes(damaged)
    with pytest.raises(DamagedFile):
        checkpoints.at(folder, 2).verify()
    assert checkpoints.newest(folder).step == 1
    assert checkpoints.steps(folder) == [1, 2]
    assert checkpoints.newest(folder, own=True).step == 1
    assert checkpoints.steps(folder) == [1]


@pytest.mark.parametrize("manifest", ["", "{", "[]", "{}"])
def test_a_manifest_that_is_none_is_damage(folder: JobFolder, manifest: str) -> None:
    save(folder, 1)
    save(folder, 2)
    (checkpoints.at(folder, 2).path / "manifest.json").write_text(manifest)
    assert checkpoints.newest(folder).step == 1


def test_a_checkpoint_of_another_job_is_refused(folder: JobFolder) -> None:
    save(folder, 1)
    path = checkpoints.at(folder, 1).path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "job": "ffff"}))
    with pytest.raises(RequestError, match="job ffff, not step 1 of job abcd"):
        checkpoints.newest(folder)


def test_a_writer_that_fails_leaves_nothing(folder: JobFolder) -> None:
    def fail(scratch: Path) -> None:
        (scratch / "half").write_bytes(b"x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        checkpoints.save(folder, 1, 1, None, fail, lambda: True)
    assert list(folder.checkpoints.iterdir()) == []


def test_a_superseded_writer_puts_nothing_in_place(folder: JobFolder) -> None:
    save(folder, 1, owner=False)
    assert checkpoints.steps(folder) == []


def test_a_complete_checkpoint_stays_and_a_damaged_one_is_replaced(folder: JobFolder) -> None:
    save(folder, 1, b"first")
    save(folder, 1, b"second")
    weights = checkpoints.at(folder, 1).path / "weights.bin"
    assert weights.read_bytes() == b"first"
    weights.write_bytes(b"fi")
    save(folder, 1, b"third")
    assert weights.read_bytes() == b"third"
    checkpoints.at(folder, 1).verify()


def test_a_damaged_trunk_checkpoint_costs_only_the_piece_before_it(planned: Planner) -> None:
    sweep_jobs = planned(budget__tokens=[1280, 2560])
    sweep_jobs.make_wishes()
    trunk = only(sweep_jobs, "trunk")[0]
    run_job(sweep_jobs, trunk)
    weights = checkpoints.at(trunk.folder, 30).path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run_all(sweep_jobs)
    straight = planned(name="straight", schedule__fork=False)
    run_all(straight)
    branch = next(b for b in sweep_jobs.branches[trunk.job.id] if b.job.cut == 30)
    assert attempts.newest(branch.folder).record["start_step"] == 15
    losses = [e.folder.result().loss_nats for e in only(sweep_jobs, "branch")]
    assert losses == [e.folder.result().loss_nats for e in only(straight, "run")]


def test_a_checkpoint_of_another_model_is_refused_in_one_sentence(planned: Planner) -> None:
    sweep_jobs = planned(budget__tokens=[1280])
    sweep_jobs.make_wishes()
    small, large = only(sweep_jobs, "trunk")
    run_job(sweep_jobs, small)
    source = checkpoints.at(small.folder, 15).path
    target = checkpoints.at(large.folder, 15).path
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((target / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps({**manifest, "job": large.job.id}))
    branch = sweep_jobs.branches[large.job.id][0]
    outcome = run_job(sweep_jobs, branch)
    assert outcome.why == "request" and "holds another model" in outcome.message
    assert "\n" not in outcome.message
