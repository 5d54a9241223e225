"""The story of a job as it is printed."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from sweepctl.errors import RequestError
from sweepctl.launch import logs
from sweepctl.launch.logs import read_job_log
from sweepctl.report.console import TextConsole
from sweepctl.report.logs import NEWEST, ROWS, follow_job, job_log_json, row_line, show_job_log, show_process
from sweepctl.store import attempts, metrics
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from sweepctl.store.workspace import Workspace
from tests.conftest import Planner, only


class Page(TextConsole):
    """A console whose text can be read."""

    def __init__(self) -> None:
        self.text = io.StringIO()
        super().__init__(file=self.text, width=120)

    def lines(self) -> list[str]:
        return self.text.getvalue().splitlines()


@pytest.fixture
def tried(planned: Planner, tmp_path: Path) -> tuple[SweepJobs, PlannedJob]:
    """A trunk that was stopped once and then failed."""
    sweep_jobs = planned(name="tried", ladder__depths=[1])
    [trunk] = only(sweep_jobs, "trunk")
    first = attempts.claim(trunk.folder, {"launcher": "local", "log": str(tmp_path / "log")})
    assert first is not None
    first.metrics.write_text('{"step": 3, "train_loss_nats": 4.0}\n')
    first.end("stopped")
    (tmp_path / "log").write_text("from [the] process\n")
    second = attempts.claim(trunk.folder, {"launcher": "slurm", "scheduler_id": "12_3"})
    assert second is not None
    row = {"step": 10, "tokens": 640, "train_loss_nats": 3.25, "lr": 0.02, "tokens_per_s": 12345}
    point = {"step": 16, "tokens": 1024, "loss_nats": {"validation": 3.0}}
    second.metrics.write_text(json.dumps(row) + "\n" + json.dumps(point) + "\n")
    second.end("out_of_memory", error="Traceback\n  [line]\nOutOfMemoryError: no", trained_tokens=640)
    return sweep_jobs, trunk


def test_rows_are_a_line_each() -> None:
    row = {"step": 10, "tokens": 640, "train_loss_nats": 3.25, "lr": 0.02, "tokens_per_s": 12345}
    assert row_line(row).split() == ["10", "640", "3.2500", "2.000e-02", "12.3k"]
    assert row_line({"step": 1, "tokens": 64, "train_loss_nats": 3.0}).split() == ["1", "64", "3.0000"]
    assert row_line({"step": 2, "loss_nats": {"a": 1.5, "b": 2.0}}).endswith("held out:   a 1.5000  b 2.0000")
    assert row_line({"step": 2, "loss_nats": {}}).endswith("not finite")


def test_the_newest_attempt_is_told_in_full_and_older_ones_in_a_line(
    tried: tuple[SweepJobs, PlannedJob],
) -> None:
    page = Page()
    show_job_log(page, read_job_log(*tried))
    title, first, second, heading, row, point, ended, *error = page.lines()
    assert title.startswith(tried[1].job.id) and "failed, step 0 of" in title
    assert first.startswith("attempt 1, local, on ") and first.endswith(", stopped")
    assert " as 12_3, 20" in second and second.endswith(", out of memory")
    assert heading.split()[0] == "step" and "3.2500" in row and "held out" in point
    assert ended == "out of memory after 640 tokens" and error[-1] == "  OutOfMemoryError: no"
    assert error[1].strip() == "[line]"  # no markup


def test_an_older_attempt_and_its_process_can_be_asked_for(tried: tuple[SweepJobs, PlannedJob]) -> None:
    page = Page()
    show_job_log(page, read_job_log(*tried, 1))
    assert "4.0000" in page.text.getvalue() and "3.2500" not in page.text.getvalue()
    page = Page()
    show_process(page, read_job_log(*tried, 1))
    assert page.lines()[-1] == "from [the] process"
    page = Page()
    show_process(page, read_job_log(*tried))
    assert page.lines()[-1] == "This attempt named no log."


def test_following_prints_each_line_once(
    tried: tuple[SweepJobs, PlannedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "PATIENCE_S", 0.05)
    page = Page()
    follow_job(page, *tried, None, False)
    text = page.text.getvalue()
    assert [text.count(part) for part in ("attempt 1", "attempt 2", "3.2500", "OutOfMemory")] == [1, 1, 1, 1]


def test_a_job_that_never_started_says_so(planned: Planner) -> None:
    sweep_jobs = planned(name="new", ladder__depths=[1])
    page = Page()
    show_job_log(page, read_job_log(sweep_jobs, only(sweep_jobs, "branch")[0]))
    assert len(page.lines()) == 2 and page.lines()[1].startswith("Not started: it waits for step ")


def test_json_has_records_and_rows(tried: tuple[SweepJobs, PlannedJob]) -> None:
    report = json.loads(json.dumps(job_log_json(read_job_log(*tried))))
    assert [attempt["record"]["why"] for attempt in report["attempts"]] == ["stopped", "out_of_memory"]
    assert report["attempts"][1]["metrics"][0]["tokens_per_s"] == 12345 and report["state"] == "failed"


def test_many_rows_are_thinned_and_the_newest_are_whole(tried: tuple[SweepJobs, PlannedJob]) -> None:
    path = read_job_log(*tried).chosen.metrics  # type: ignore[union-attr]
    rows = 20_000
    path.write_text("".join(f'{{"step": {step}, "train_loss_nats": 3.0}}\n' for step in range(1, rows + 1)))
    page = Page()
    show_job_log(page, read_job_log(*tried))
    steps = [int(line.split()[0]) for line in page.lines() if line.split()[0].isdigit()]
    assert (
        len(steps) <= ROWS and steps[0] == 1 and steps[-NEWEST:] == list(range(rows - NEWEST + 1, rows + 1))
    )
    assert steps == sorted(set(steps)) and f"--json has all {rows}" in page.text.getvalue()


def test_a_log_that_waits_for_a_writer_is_not_waited_for(
    tried: tuple[SweepJobs, PlannedJob], tmp_path: Path
) -> None:
    (tmp_path / "log").unlink()
    os.mkfifo(tmp_path / "log")
    page = Page()
    show_process(page, read_job_log(*tried, 1))
    assert page.lines()[-1].endswith("log is empty.")
    assert metrics.tail(tmp_path / "log") == []


def test_a_logs_escape_sequences_are_left_out(tried: tuple[SweepJobs, PlannedJob], tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\x1b[2J\x1b]0;title\x07\x1b[31mred\x1b[0m [/] \xff\n")
    page = Page()
    show_process(page, read_job_log(*tried, 1))
    assert page.lines()[-1] == "red [/] \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\x1b[31m", "a\tb"])
def test_a_workspaces_path_is_a_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPCTL_HOME", str(tmp_path / name))
    with pytest.raises(RequestError, match="SWEEPCTL_HOME"):
        Workspace.default()
    monkeypatch.setenv(
        "SWEEPCTL_HOME", str(tmp_path / "a b\N{NO-BREAK SPACE}\N{LATIN SMALL LETTER E WITH ACUTE}")
    )
    assert Workspace.default().root.parent == tmp_path
