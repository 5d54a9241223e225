"""The rows of the transfer table: each a study that plans, trains once, and is read back."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sweepctl.check.transfer import ROWS, plan_row, read_row, row_study, rows_named
from sweepctl.cli.app import app
from sweepctl.cli.transfer import _plan_rows
from sweepctl.errors import RequestError
from sweepctl.report.console import TextConsole
from sweepctl.report.transfer import show_transfer, transfer_json
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.grid import axis_values
from sweepctl.store.workspace import Workspace
from tests.conftest import tree

FACTS = CorpusFacts("c" * 16, 256, 10_000_000, ("validation",))
NARROW = "{d_model: 8, n_layers: 1, n_heads: 1, d_ff: 16}"
WIDE = "{d_model: 16, n_layers: 1, n_heads: 2, d_ff: 32}"
SMALL = [
    *("data=synthetic", "data.options.train_tokens=200000", "data.options.validation_tokens=66000"),
    *(f"ladder.table=[{NARROW}, {WIDE}]", "batch.tokens=64", "batch.context=16", "budget.tokens=[640]"),
    *("parametrization.base_d_model=8", "parametrization.base_n_layers=1", "schedule.warmup_steps=2"),
    *("validation.tokens=1024", "validation.curve_tokens=256"),
    "grid.axes.optimizer.lr={log2: {from: -8, to: -6}}",
]
"""Two widths, three rates, ten updates."""


def check(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["check", "transfer", *arguments, *SMALL])


@pytest.mark.parametrize("name", list(ROWS))
def test_every_row_plans_three_widths_at_the_same_number_of_updates(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    planned = plan_row(Workspace(tmp_path), row, row_study(row, 2, []), FACTS)
    for key in ("seed.init", "seed.data"):
        assert [plan.points[0].settings[key] for plan in planned.plans.values()] == [0, 1]
    jobs = [job for plan in planned.plans.values() for job in plan.jobs]
    assert len({job.id for job in jobs}) == 2 * 3 * len(planned.rates)
    assert {job.end for job in jobs} == {300} and planned.rungs == ("32x2", "64x2", "128x2")
    assert planned.first.batch_tokens(jobs[0]) == 1024 * row.batch


def test_rows_differ_from_the_baseline_in_what_they_say() -> None:
    base = row_study(ROWS["mup"], 1, []).model
    assert row_study(ROWS["gains-scalar"], 1, []).model.gains == "scalar" and base.gains is False
    assert row_study(ROWS["decay-0.1"], 1, []).optimizer.weight_decay_rule == "scaled"
    assert row_study(ROWS["standard"], 1, []).parametrization.init_std == 0.177
    assert row_study(ROWS["swiglu"], 1, ["model.activation=gelu"]).model.activation == "gelu"


def test_a_study_that_looks_for_its_rate_in_a_stage_is_checked_on_its_whole_ladder(tmp_path: Path) -> None:
    """By that stage's grid and budget, its rung first: the rate is carried from there."""
    planned = plan_row(Workspace(tmp_path), ROWS["mup"], row_study(ROWS["mup"], 2, ["study=demo"]), FACTS)
    assert planned.sweep.name == "demo-mup"
    assert planned.rungs == ("32x2", "48x3", "64x4", "80x5", "96x6")
    assert [math.log2(rate) for rate in planned.rates] == [-8, -7, -6, -5, -4]
    ends = {job.end for plan in planned.plans.values() for job in plan.observations()}
    assert ends == {500_000 // 256}
    standard = row_study(ROWS["standard"], 1, ["study=demo"])
    assert max(axis_values("optimizer.lr", standard.grid.axes["optimizer.lr"])) == 2**-6


def test_more_seeds_and_other_rows_leave_what_was_planned(tmp_path: Path) -> None:
    single, both = (
        plan_row(Workspace(tmp_path), ROWS["mup"], row_study(ROWS["mup"], n, []), FACTS).plans for n in (1, 2)
    )
    assert list(both) == ["seed0", "seed1"] and single["seed0"].hash == both["seed0"].hash


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.activation=relu,gelu"], "no other axis"),
        (["optimizer.lr=0.1,0.2"], "at least three values"),
        (["budget.tokens=[51200,153600]"], "one budget"),
        (["study=nope"], "study=nope is not there"),
    ],
)
def test_what_cannot_be_judged_is_refused(overrides: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        plan_row(Workspace(tmp_path), ROWS["mup"], row_study(ROWS["mup"], 2, overrides), FACTS)
    assert "\n" not in str(caught.value)


def test_row_names() -> None:
    assert [row.name for row in rows_named("muon, mup,muon")] == ["muon", "mup"]
    assert len(rows_named("all")) == len(ROWS) == 14
    with pytest.raises(RequestError, match="Did you mean swiglu"):
        rows_named("swigl")


def test_it_trains_once_goes_on_with_more_seeds_and_shows_the_table(workspace: Workspace) -> None:
    listed = json.loads(check("--rows", "mup,standard", "--list", "--json").stdout)
    assert [row["runs_left"] for row in listed["rows"]] == [12, 6 * 2] and not workspace.sweep_names()
    planned = check("--rows", "mup", "--plan-only", "--seeds", "1", "--json")
    assert planned.exit_code == 0 and json.loads(planned.stdout)["rows"][0]["missing"] == 6
    first = check("--rows", "mup", "--seeds", "1", "--workers", "2", "--json")
    assert first.exit_code == 1, first.stdout  # one seed resolves nothing
    row = json.loads(first.stdout)["rows"][0]
    assert row["missing"] == 0 and row["transfers"] == "not resolved" and "--seeds" in row["why"]
    assert workspace.sweep_names() == ["transfer-mup"]

    def jobs() -> dict[str, bytes]:
        files = tree(workspace.root / "store").items()
        return {path: content for path, content in files if not path.startswith("throughput/")}

    before = jobs()
    drawn = workspace.root / "table.png"
    more = check("--rows", "mup", "--seeds", "2", "--workers", "2", "--png", str(drawn))
    assert "6 runs" in more.stdout and "transfer-mup" in more.stdout, more.stdout
    assert "2^-8" in more.stdout and "same point" in more.stdout
    assert Image.open(drawn).width > 300
    after = jobs()
    assert {path: after[path] for path in before} == before and len(after) == 2 * len(before)
    again = check("--rows", "mup", "--workers", "2", "--json")
    assert jobs() == after
    losses = np.array(json.loads(again.stdout)["rows"][0]["losses"])
    assert losses.shape == (2, 2, 3) and losses[:, 0].tolist() == [row["losses"][0][0], row["losses"][1][0]]
    assert len(np.unique(losses)) == losses.size


def test_diverged_runs_are_shown_as_such(workspace: Workspace) -> None:
    arguments = ("--rows", "mup", "--seeds", "1", "--workers", "2", "optimizer.lr=0.008,1e6,1e7")
    shown = check(*arguments)
    assert "div." in shown.stdout and "0.008" in shown.stdout and shown.exit_code == 1
    planned = _plan_rows(workspace, [ROWS["mup"]], 1, [*SMALL, arguments[-1]], None)[0]
    result = read_row(planned)
    assert np.isinf(result.losses[:, 0, 1:]).any() and not result.missing and result.verdict is not None
    lost = replace(result, losses=np.full_like(result.losses, np.inf), verdict=None)
    assert "diverged" in lost.why and not lost.holds
    show_transfer(TextConsole(file=io.StringIO()), [lost])
    assert transfer_json([lost])["rows"][0]["diverged"] == 6
