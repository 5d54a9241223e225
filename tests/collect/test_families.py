"""What belongs together and was computed in two ways is said, once, wherever results are shown."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from sweepctl.cli import main
from sweepctl.collect.families import seams
from sweepctl.collect.tables import collect
from sweepctl.store import attempts
from sweepctl.store.attempts import Attempt
from sweepctl.store.files import write_json
from sweepctl.store.job import JobFolder
from tests.conftest import Planner, StopAfter, only, run_all, run_job

GPU = {"device": "NVIDIA H100", "compiled": True, "versions": {"torch": "2.11.0"}}


def attempt(number: int, origin: tuple[str, int] | None = None, **record: Any) -> Attempt:
    start = None if origin is None else {"job": origin[0], "step": 5, "attempt": origin[1]}
    return Attempt(None, number, {"start_step": 0, "started_from": start, **GPU, **record})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"compiled": False}, "eager after compiled"),
        ({"compiled": None, "execution": {"compile": False}}, "eager after compiled"),
        ({"compiled": None}, None),
        ({"deterministic": True}, "deterministic after not"),
        ({"deterministic": False}, None),
        ({"device": "NVIDIA A100"}, "NVIDIA A100 after NVIDIA H100"),
        ({"versions": {"torch": "2.12.0", "numpy": "2"}}, "torch 2.12.0 after 2.11.0"),
        ({"versions": {}, "device": None}, None),
    ],
)
def test_a_branch_is_held_against_its_trunk(changed: dict[str, Any], words: str | None) -> None:
    histories = {"trunk": [attempt(1)], "branch": [attempt(1, ("trunk", 1), **changed)]}
    assert seams(histories) == ({} if words is None else {("branch", 1): words})


def test_only_what_the_newest_attempt_stands_on_counts() -> None:
    """The second attempt was eager, and the third began anew from the first's checkpoint; the fourth has not
    begun to train. A trunk that is not there says nothing."""
    histories = {
        "job": [
            attempt(1, ("gone", 1)),
            attempt(2, ("job", 1), compiled=False),
            attempt(3, ("job", 1), device="NVIDIA A100"),
            attempt(4, start_step=None, compiled=False),
        ]
    }
    assert seams(histories) == {("job", 3): "NVIDIA A100 after NVIDIA H100"}


def rewrite(folder: JobFolder, **facts: Any) -> None:
    last = attempts.every(folder)[-1]
    write_json(last.path / "attempt.json", last.record | facts)


def test_a_mixed_sweep_says_so(
    planned: Planner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def output(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["sweepctl", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    sweep_jobs = planned(ladder__depths=[1])
    run_all(sweep_jobs)
    assert "went on otherwise" not in output("collect", "tiny")
    assert json.loads(output("collect", "tiny", "--json"))["mixed"] == {}
    before = (sweep_jobs.sweep.folder / "runs.parquet").read_bytes()
    branch = only(sweep_jobs, "branch")[0]
    rewrite(branch.folder, compiled=True)
    table = collect(sweep_jobs)["attempts"].set_index("job")
    assert table.loc[branch.job.id, "seam"] == "compiled after eager" and table["seam"].notna().sum() == 1
    assert (sweep_jobs.sweep.folder / "runs.parquet").read_bytes() == before
    for command in ("collect", "report"):
        assert "1 job went on otherwise than computed before: compiled after eager" in output(command, "tiny")
        assert json.loads(output(command, "tiny", "--json"))["mixed"] == {"compiled after eager": 1}
    assert pd.read_parquet(sweep_jobs.sweep.folder / "attempts.parquet")["seam"].notna().sum() == 1


def test_a_resume_on_another_device_is_a_seam(planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_jobs = planned(ladder__depths=[1], budget__tokens=[1280])
    sweep_jobs.make_wishes()
    [trunk] = only(sweep_jobs, "trunk")
    with monkeypatch.context() as patch:
        patch.setattr("sweepctl.train.loop.GLANCE_S", 0.0)
        run_job(sweep_jobs, trunk, StopAfter(7))
    rewrite(trunk.folder, device="another")
    run_all(sweep_jobs)
    device = attempts.every(trunk.folder)[-1].facts.device
    table = collect(sweep_jobs)["attempts"]
    assert list(table["seam"].dropna()) == [f"{device} after another"]
