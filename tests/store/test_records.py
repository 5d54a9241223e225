"""Whatever a record holds: what cannot be so is one sentence about that file, and every other job is as it
was."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweepctl.collect.tables import collect
from sweepctl.data.shards import read_index
from sweepctl.errors import DamagedFile, SweepctlError
from sweepctl.fitting import saved
from sweepctl.launch.logs import read_job_log, seconds
from sweepctl.launch.status import full_status
from sweepctl.plan.plan import load
from sweepctl.report.console import show_json
from sweepctl.report.logs import header, job_log_json, row_line
from sweepctl.spec.hashing import canonical, digest
from sweepctl.store import attempts, checkpoints, metrics, predictions
from sweepctl.store.ends import End
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from sweepctl.train.job import run
from tests.conftest import Planner, manifest, only, run_all, run_job

WRONG: tuple[Any, ...] = (True, -1, 2.5, 10**400, "text", [[1]], {"a": {"b": []}}, None)
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def trained(planned: Planner) -> SweepJobs:
    sweep_jobs = planned(ladder__depths=[1], budget__tokens=[1280])
    run_all(sweep_jobs)
    return sweep_jobs


def is_told(look: Callable[[], Any]) -> bool:
    """Whether it answers, or says in one sentence why not."""
    try:
        look()
    except SweepctlError as error:
        return "\n" not in str(error) and len(str(error)) < 500
    return True


def looks(sweep_jobs: SweepJobs, planned_job: PlannedJob) -> list[Callable[[], Any]]:
    """What reads a job's records."""

    def logs() -> None:
        log = read_job_log(sweep_jobs, planned_job)
        show_json(job_log_json(log))
        for attempt in log.attempts:
            header(attempt), seconds(attempt), attempt.progress(), attempt.alive()
        for row in metrics.rows(log.lines):
            row_line(row)

    return [
        lambda: full_status(sweep_jobs),
        lambda: collect(sweep_jobs),
        logs,
        lambda: checkpoints.newest(planned_job.folder),
        lambda: SweepJobs(sweep_jobs.sweep, sweep_jobs.sweep.plans()),
        sweep_jobs.sweep.waiting_hashes,
        lambda: metrics.last_rate(attempts.every(planned_job.folder)[-1].metrics),
    ]


@pytest.mark.parametrize(
    "file",
    [
        "attempts/0001/attempt.json",
        "attempts/0001/heartbeat.json",
        "attempts/0001/metrics.jsonl",
        "result.json",
        "checkpoints/step-00000020/manifest.json",
        "current.json",
    ],
)
def test_a_wrong_type_in_a_record_stops_nothing(
    trained: SweepJobs, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    [branch] = only(trained, "branch")
    attempts.newest(branch.folder).beat(5, 320)
    path = (trained.sweep.folder if file == "current.json" else branch.folder.path) / file
    if file == "result.json":
        written = {**json.loads(path.read_text()), "reason": ""}
    else:
        written = json.loads(path.read_text().splitlines()[0] if file.endswith("l") else path.read_text())
    written |= {"loss_nats": {"validation": 3.0}, "why": "done"} if file.endswith("l") else {}
    texts = [json.dumps({**written, key: value}) for key in written for value in WRONG]
    texts += [json.dumps({**written, key: float("nan")}) for key in written]
    texts += [json.dumps({k: v for k, v in written.items() if k != key}) for key in written]
    texts += ["", "{", "[]", "7", "null", DEEP, '{"a":' + DEEP + "}", "\x00", json.dumps(written)[:-9]]
    for text in texts:
        path.write_text(text)
        for look in looks(trained, branch):
            assert is_told(look), text
        for line in capsys.readouterr().out.splitlines():
            assert "NaN" not in line and "Infinity" not in line


def test_nested_values_are_checked_too(trained: SweepJobs) -> None:
    [branch] = only(trained, "branch")
    result, saved_at = branch.folder.path / "result.json", checkpoints.at(branch.folder, 20).path
    good, files = json.loads(result.read_text()), json.loads((saved_at / "manifest.json").read_text())
    for value in WRONG:
        result.write_text(json.dumps({**good, "loss_nats": {"validation": value}}))
        read_back = branch.folder.result()
        assert read_back is None or read_back.loss_nats["validation"] in (-1.0, 2.5)
        (saved_at / "manifest.json").write_text(json.dumps({**files, "files": {"weights": value}}))
        with pytest.raises(DamagedFile):
            checkpoints.at(branch.folder, 20).verify()
    outside = {"../../../job.json": {"bytes": 1, "sha256": ""}}
    (saved_at / "manifest.json").write_text(json.dumps({**files, "files": outside}))
    with pytest.raises(DamagedFile):
        checkpoints.at(branch.folder, 20).verify()


def test_metrics_are_json_where_the_loss_is_no_number(planned: Planner) -> None:
    sweep_jobs = planned(
        ladder__depths=[1], budget__tokens=[1280], optimizer__lr=1e30, divergence__every_steps=20
    )
    sweep_jobs.make_wishes()
    [trunk] = only(sweep_jobs, "trunk")
    run_job(sweep_jobs, trunk, log_every_steps=1)
    text = attempts.newest(trunk.folder).metrics.read_text()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert any(row.get("train_loss_nats", 0) is None for row in rows)


def test_older_metrics_with_nan_are_read(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(
        '{"step": 1, "train_loss_nats": NaN, "lr": 0.5, "loss_nats": {"a": Infinity, "b": 2.0}}\n'
    )
    assert metrics.read(file) == [{"step": 1, "train_loss_nats": None, "lr": 0.5, "loss_nats": {"b": 2.0}}]


def test_attempts_whose_numbers_begin_anew_end(trained: SweepJobs) -> None:
    """Attempts were deleted, the checkpoints stayed: an attempt stands on one with its own number."""
    [branch] = only(trained, "branch")
    attempt = attempts.newest(branch.folder)
    for number in (1, 2):
        attempt.update(started_from={"job": branch.job.id, "step": 17, "attempt": number})
        assert len(collect(trained)["curves"])


def test_a_result_of_another_job_or_step_is_not_collected(trained: SweepJobs) -> None:
    [branch] = only(trained, "branch")
    good = branch.folder.result()
    path = branch.folder.path / "result.json"
    for changes in ({"job": "0" * 16}, {"step": branch.job.end - 1}, {"state": "diverged", "step": 21}):
        path.write_text(json.dumps({**good.record(), **changes}))
        assert collect(trained)["runs"]["state"].tolist() == ["missing"]
        assert not trained.finished(branch)
    path.write_text(json.dumps({k: v for k, v in good.record().items() if k != "job"}))
    assert collect(trained)["runs"]["state"].tolist() == ["done"]
    path.write_text(json.dumps({**good.record(), "step": 1}))
    run_all(trained)
    assert branch.folder.result().loss_nats == good.loss_nats


def test_ids_of_a_plan_are_ids(planned: Planner, tmp_path: Path) -> None:
    sweep_jobs = planned()
    [plan] = sweep_jobs.plans.values()
    for value in ("../../../elsewhere", "a" * 15, "A" * 16, "a" * 16 + "\n", "", 7, None):
        raw = json.loads(plan.text)
        raw["jobs"][-1][0] = value
        with pytest.raises(DamagedFile, match="is no job's id"):
            load(json.dumps(raw), "plan.json")
    raw = json.loads(plan.text)
    with pytest.raises(DamagedFile, match="corpus_name"):
        load(json.dumps({**raw, "corpus_name": "../../data"}), "plan.json")
    pointer = sweep_jobs.sweep.pointer
    pointer.write_text(json.dumps({"stages": {"main": "../../other/plans/x"}}))
    with pytest.raises(DamagedFile, match="is damaged"):
        sweep_jobs.sweep.plans()


def test_nothing_is_claimed_for_a_science_that_is_not_the_jobs(planned: Planner) -> None:
    sweep_jobs = planned(ladder__depths=[1])
    [trunk] = only(sweep_jobs, "trunk")
    outcome = run(replace(manifest(sweep_jobs, trunk), job="0" * 16), threading.Event(), lambda event: None)
    assert outcome.why is End.REQUEST and not trunk.folder.path.exists()


def test_predictions_fits_and_indexes_are_checked(trained: SweepJobs) -> None:
    sweep = trained.sweep
    folder = predictions.folder(sweep)
    folder.mkdir()
    for value in (
        {},
        {"observations": 3, "written": ""},
        {"observations": [{}], "written": ""},
        {"written": 1},
    ):
        path = folder / f"{digest(canonical(value))}.json"
        path.write_text(json.dumps(value))
        with pytest.raises(DamagedFile, match="is not the prediction"):
            predictions.every(sweep)
        path.unlink()
    (sweep.folder / "fits").mkdir()
    for text in ("{}", '{"law": 3, "params": []}', "[]", DEEP, '{"law": "chinchilla", "params": {"a": "x"}}'):
        (sweep.folder / "fits" / "isoflop.json").write_text(text)
        assert is_told(lambda: saved.load(sweep, "isoflop"))
    index = sweep.workspace.corpus("synthetic") / "index.json"
    good = json.loads(index.read_text())
    for key in good:
        for value in WRONG:
            index.write_text(json.dumps({**good, key: value}))
            assert is_told(lambda: read_index(index.parent).facts)
