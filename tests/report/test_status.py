"""The status as a screen: what is on it, and that it stays one."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter

import pytest

from sweepctl.launch.slurm.commands import as_task
from sweepctl.launch.status import KindStatus, RungStatus, SweepStatus, status
from sweepctl.report import status as view
from sweepctl.report.console import TextConsole
from sweepctl.report.status import screen, show_status, status_json, watch_status
from sweepctl.store import attempts
from sweepctl.store.ends import End
from sweepctl.store.state import State
from sweepctl.store.sweep_jobs import SweepJobs
from tests.conftest import Planner, only, run_all


def printed(shown: object, width: int = 120) -> str:
    out = io.StringIO()
    TextConsole(file=out, width=width, highlight=False).print(shown)
    return out.getvalue()


@pytest.fixture
def troubled(planned: Planner) -> SweepJobs:
    """Thirty trunks that failed and as many that wait to be started."""
    sweep_jobs = planned(name="troubled", ladder__depths=[1, 2], grid={"axes": {"seed.init": {"seeds": 30}}})
    for number, trunk in enumerate(only(sweep_jobs, "trunk")[:30]):
        attempt = attempts.claim(trunk.folder, {})
        assert attempt is not None
        attempt.end("failed" if number else "infrastructure", error=f"Traceback\nerror [{number}] here")
    return sweep_jobs


def test_what_is_wrong_is_shown_up_to_a_limit(troubled: SweepJobs) -> None:
    text = printed(screen(status(troubled)))
    assert text.count("here") == view.FAILED and "and 20 more" in text
    assert "infrastructure: error [0] here" in text and "(2 branches waiting for it) error [1] here" in text
    assert "failed: infrastructure" in " ".join(text.split()) and "time left: unknown" in text
    assert "0 device-hours spent, unknown left" in text and "`sweepctl logs troubled JOB`" in text


def test_a_sweep_of_many_rungs_is_one_screen(troubled: SweepJobs) -> None:
    sweep = status(troubled)
    sweep.rungs = [
        RungStatus("all", f"rung{i}", Counter(done=3) if i % 5 else Counter(failed=2), i, 100.0)
        for i in range(200)
    ]
    text = printed(screen(sweep, height=45))
    assert len(text.splitlines()) <= 45
    assert "rung0 " in text and "rung1 " not in text  # what is not complete comes first
    folded = next(line.split() for line in text.splitlines() if " more " in line)
    rest = int(folded[0])
    assert rest + text.count(" rung") - text.count("stage   rung") == 200
    assert len(printed(screen(sweep)).splitlines()) < 60


def test_a_long_line_is_whole_where_it_can_be_scrolled_and_cut_where_not(troubled: SweepJobs) -> None:
    sweep = status(troubled)
    out = io.StringIO()
    show_status(TextConsole(file=out, width=70, highlight=False), sweep)
    assert out.getvalue().count("here\n") == view.FAILED
    cut = printed(screen(sweep, height=60), width=70)
    assert "here" not in cut and "…" in cut and max(map(len, cut.splitlines())) <= 70


def test_queued_jobs_say_why(troubled: SweepJobs) -> None:
    trunks = only(troubled, "trunk")
    tasks = {e.job.id: as_task(f"9_{i}", "PENDING", "Priority") for i, e in enumerate(trunks[30:])}
    sweep = status(troubled, tasks)
    assert "Queued: 30 Priority." in printed(screen(sweep))
    report = json.loads(json.dumps(status_json(sweep)))
    job = next(job for job in report["jobs"] if job["id"] == trunks[31].job.id)
    assert (job["state"], job["task"], job["queue_state"]) == ("queued", "9_1", "PENDING")
    assert report["kinds"]["trunk"]["states"] == {"failed": 30, "queued": 30}
    assert report["kinds"]["trunk"]["failures"] == {"infrastructure": 1, "failed": 29}
    assert len(report["wrong"]) == 30 and report["wrong"][1]["branches_waiting"] == 2
    assert report["eta_s"] is None and report["device_hours_left"] is None and report["tokens_done"] == 0


@pytest.mark.parametrize("terminal", [False, True])
def test_watching_goes_on_until_everything_is_there(
    planned: Planner, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_jobs = planned(name="watched", ladder__depths=[1], budget__tokens=[1280])
    looked: list[float] = []
    monkeypatch.setattr(view.time, "sleep", lambda s: (looked.append(s), run_all(sweep_jobs)))
    out = io.StringIO()
    console = TextConsole(file=out, width=120, height=50, force_terminal=terminal)
    watch_status(console, lambda: status(sweep_jobs), 7.0)
    assert looked == [7.0] and "Everything the plans want is there." in out.getvalue()
    if not terminal:
        first, second = out.getvalue().split("\n\nsweep watched")[-2:]
        assert "unknown left" in first and "100%" in second
    again = io.StringIO()
    show_status(TextConsole(file=again, width=120), status(sweep_jobs))
    assert "Everything the plans want is there." in again.getvalue()


def test_status_and_logs_import_nothing_slow() -> None:
    code = (
        "import sys; import sweepctl.cli, sweepctl.launch.status, sweepctl.report.status,"
        " sweepctl.launch.logs, sweepctl.report.logs;"
        " print([m for m in ('torch', 'pandas', 'numpy', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_number_is_cut_on_a_narrow_screen(width: int) -> None:
    """With every state, in more jobs than a narrow column holds."""
    states = Counter({state: 12_340 + place for place, state in enumerate(State)})
    sweep = SweepStatus("wide", [])
    sweep.rungs = [RungStatus("all", "1024x24", states, 1.2e20, 3.4e21)]
    sweep.kinds = {"branch": KindStatus(states, Counter({End.STORAGE: 12_340}))}
    words = printed(screen(sweep), width)
    assert all(words.count(str(number)) >= 2 for state, number in states.items() if state != "failed")
    assert "…" not in words
