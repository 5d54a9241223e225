"""The coordinate check: muP holds, what is broken is found and named."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sweepctl.check.coordinates import (
    CoordinateRequest,
    CoordinateResult,
    check,
    request_of,
    shape_of,
    small_batch,
)
from sweepctl.check.slopes import slopes
from sweepctl.check.verdicts import CheckedRecipe, keep, record_path, require
from sweepctl.cli import main
from sweepctl.data.shards import CorpusIndex
from sweepctl.errors import RequestError
from sweepctl.report.coordinates_picture import draw_coordinates
from sweepctl.spec.execution import Execution
from sweepctl.spec.parametrization import Parametrization, Row
from sweepctl.spec.science import Batch
from sweepctl.spec.weights import Weight
from sweepctl.store.workspace import Workspace
from sweepctl.train.measurements import Measurement, relative_norms
from tests.conftest import Planner, tiny

QUICK = CoordinateRequest(widths=(32, 64, 128), depths=(2,), steps=(2, 4), seeds=3)
BASE = {
    "ladder__head_size": 16,
    "ladder__d_ff_ratio": 4,
    "model__activation": "gelu",
    "batch": {"tokens": 256, "context": 32},
    "parametrization__base_d_model": 32,
    "parametrization__base_n_layers": 2,
    "parametrization__init_std": 0.18,
    "optimizer__lr": 0.004,
}


def measured(
    workspace: Workspace, index: CorpusIndex, request: CoordinateRequest = QUICK, **changes: Any
) -> CoordinateResult:
    study = tiny(**{**BASE, **changes})
    return check(workspace, study, index, request, Execution(device="cpu"), lambda done, of: None)


def test_mup_holds(workspace: Workspace, index: CorpusIndex) -> None:
    result = measured(workspace, index)
    assert result.holds and result.broken == []
    judged = {(slope.kind, slope.name) for slope in result.slopes if slope.judged}
    assert {("update", "blocks.1.mlp_out"), ("change", "blocks.0"), ("activation", "logits")} <= judged
    assert not any(slope.judged for slope in result.slopes if slope.step < 2)


def test_standard_fails_at_slope_one_and_is_drawn_red(
    workspace: Workspace, index: CorpusIndex, tmp_path: Path
) -> None:
    result = measured(workspace, index, parametrization__name="standard")
    assert not result.holds
    worst = {s.name: s.slope for s in result.slopes if s.kind == "update" and s.step == 2}
    assert worst["blocks.1.mlp_out"] == pytest.approx(1.0, abs=0.15)
    changes = [s.slope for s in result.slopes if s.kind == "change" and s.name == "blocks.1" and s.judged]
    assert all(slope is not None and slope > 0.8 for slope in changes)
    assert re.search(r"updates grow like width\^[01]\.", result.broken[0])
    draw_coordinates(tmp_path / "breaks.png", result)
    reds = Image.open(tmp_path / "breaks.png").convert("RGB").getcolors(1 << 20)
    assert any(color == (0xC6, 0x28, 0x28) for _, color in reds or [])


@pytest.mark.parametrize("name", ["mlp_out", "qkv"])
def test_one_broken_tensor_is_found_and_named(
    workspace: Workspace, index: CorpusIndex, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    table = Parametrization.row

    def broken(self: Parametrization, weight: Weight, shape: Any) -> Row:
        row = table(self, weight, shape)
        return dataclasses.replace(row, lr=1.0) if weight.name.endswith(f".{name}") else row

    monkeypatch.setattr(Parametrization, "row", broken)
    result = measured(workspace, index)
    updates = [slope for slope in result.slopes if slope.kind == "update" and slope.step == 2]
    assert {slope.part for slope in updates if slope.breaks} == {name}
    assert f".{name}'s updates grow like width^" in result.broken[0]
    assert "(and in 1 other layer)" in result.broken[0]


def test_a_depth_rule_is_told_from_none(workspace: Workspace, index: CorpusIndex) -> None:
    request = CoordinateRequest(widths=(32,), depths=(2, 4, 8), steps=(2,), seeds=2)
    ruled = measured(workspace, index, request, optimizer__lr=0.001)
    assert ruled.holds and ruled.sizes == (2, 4, 8)
    without = measured(workspace, index, request, optimizer__lr=0.001, parametrization__depth_exponent=0.0)
    assert not without.holds and without.broken[0].startswith("blocks.last's change grows like depth^0.")


def test_the_probe_leaves_no_trace(workspace: Workspace, index: CorpusIndex) -> None:
    """A model that was looked at is the one that was not."""
    from sweepctl.spec.learning_rate import LearningRateCurve
    from sweepctl.train.batches import Batches
    from sweepctl.train.builtin import BuiltinTrainer
    from sweepctl.train.device import machine
    from sweepctl.train.measurements import measure
    from tests.check.test_fork import point_of

    def trainer() -> BuiltinTrainer:
        point = point_of(tiny(), index)
        batches = Batches(workspace.corpus("synthetic"), point)
        return BuiltinTrainer(point, batches, machine(Execution(device="cpu"), "fp32"), Execution())

    looked_at, left_alone = trainer(), trainer()
    list(measure(looked_at, (1, 3)))
    for _ in range(3):
        left_alone.update(LearningRateCurve(0))
    pairs = zip(looked_at.model.parameters(), left_alone.model.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_norms_are_of_each_stacked_block_and_expert() -> None:
    """Against a singular value decomposition, block by block."""
    torch.manual_seed(0)
    qkv = Weight("blocks.0.qkv", "hidden", (24, 8), 8, 8, 3)
    change = torch.randn(24, 8)
    norms = relative_norms(qkv, change)
    tops = [float(torch.linalg.svdvals(part)[0]) for part in change.chunk(3)]
    assert [norms[f"blocks.0.qkv.{part}"] for part in "qkv"] == pytest.approx(tops)
    assert norms["blocks.0.qkv"] == pytest.approx(math.sqrt(sum(top**2 for top in tops) / 3))
    experts = Weight("blocks.0.experts_in", "hidden", (4, 32, 8), 8, 16, 2, 0.5)
    change = torch.randn(4, 32, 8)
    norms = relative_norms(experts, change)
    gates = [float(torch.linalg.svdvals(expert[:16])[0]) for expert in change]
    expected = math.sqrt(sum(gate**2 for gate in gates) / 4) / math.sqrt(16 / 8)
    assert norms["blocks.0.experts_in.gate"] == pytest.approx(expected)


def measurements(power: float, noise: float = 0.0) -> Iterator[tuple[int, Measurement]]:
    for seed, width in enumerate((32, 64, 128, 32, 64, 128)):
        wobble = 1 + noise * (-1) ** seed
        yield width, Measurement("update", "blocks.0.mlp_out", 2, 0.3 * width**power * wobble, True)


def test_slopes_are_least_squares_with_an_interval() -> None:
    sizes, [exact] = slopes(measurements(0.7), "width", zero_head=True)
    assert sizes == (32, 64, 128) and exact.slope == pytest.approx(0.7) and not exact.holds
    assert exact.values == pytest.approx([0.3 * width**0.7 for width in sizes])
    _, [noisy] = slopes(measurements(0.15, 0.3), "width", zero_head=True)
    assert noisy.unclear and not noisy.holds and not noisy.breaks
    assert exact.breaks and not exact.unclear


def test_what_is_not_a_number_does_not_hold() -> None:
    rows = [
        (32, Measurement("change", "blocks.0", 2, 1.0, True)),
        (64, Measurement("change", "blocks.0", 2, math.nan, True)),
    ]
    _, [slope] = slopes(rows, "width", zero_head=True)
    assert slope.slope is None and not slope.holds
    zeros = [(width, Measurement("change", "blocks.0", 2, 0.0, True)) for width in (32, 64)]
    _, [still] = slopes(zeros, "width", zero_head=True)
    assert still.holds and not still.judged


def test_defaults_follow_the_study() -> None:
    study = tiny(
        model__queries_per_kv=2, ladder__head_size=16, ladder__aspect=16, parametrization__base_n_layers=9
    )
    request = request_of(study, (), (), (2,), 1)
    assert request.widths == (32, 64, 128, 256) and request.depths == (4,)
    assert shape_of(study, 64, 3).d_ff == 128
    assert small_batch(Batch(524288, 2048)) == Batch(1024, 128)
    assert small_batch(Batch(64, 16)) == Batch(64, 16)


@pytest.mark.parametrize(
    "arguments",
    [((32,), (2,)), ((32, 64), (2, 4)), ((32, 32), (2,)), ((32, 64), (2,), (1,)), ((0, 64), (2,))],
)
def test_requests_that_cannot_be_judged_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(RequestError):
        CoordinateRequest(*arguments)


def test_the_command_prints_keeps_and_draws(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own = ["data=synthetic", "parametrization.base_d_model=32", "parametrization.init_std=0.18"]
    own += ["optimizer.lr=0.004", "model.activation=gelu", "execution.device=cpu"]
    quick = ["--widths", "32,64,128", "--steps", "2,4"]

    def called(*more: str) -> int:
        monkeypatch.setattr("sys.argv", ["sweepctl", "check", "coordinates", *own, *quick, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert called("--png", str(tmp_path / "holds.png")) == 0
    assert "coordinates holds" in capsys.readouterr().out
    assert Image.open(tmp_path / "holds.png").size[0] > 800
    assert called("parametrization=standard", "--json") == 1
    record = json.loads(capsys.readouterr().out)
    assert record["holds"] is False and record["broken"]
    kept = workspace.root / "checks" / f"coordinates-{record['hash']}.json"
    assert json.loads(kept.read_text()) == record
    assert called("--steps", "x") == 2


def test_the_gate_refuses_names_and_lets_pass(planned: Planner, workspace: Workspace) -> None:
    sweep_jobs = planned(grid={"axes": {"optimizer.lr": [0.01, 0.02], "optimizer.beta2": [0.95, 0.99]}})
    plans = list(sweep_jobs.plans.values())
    with pytest.raises(RequestError, match=r"sweepctl check coordinates .* optimizer\.beta2=0\.95`"):
        require(workspace, plans)
    base = plans[0].base
    for beta2, holds in ((0.95, True), (0.99, False)):
        optimizer = dataclasses.replace(base.optimizer, beta2=beta2, lr=0.5)  # the rate is not of it
        recipe = CheckedRecipe(base.model, base.parametrization, optimizer)
        keep(record_path(workspace, recipe), {"holds": holds, "broken": ["blocks.0 grows"] * (not holds)})
        if holds:
            with pytest.raises(RequestError, match=r"optimizer\.beta2=0\.99"):
                require(workspace, plans)
    with pytest.raises(RequestError, match=r"blocks\.0 grows"):
        require(workspace, plans)
    keep(record_path(workspace, recipe), {"holds": True, "broken": []})
    require(workspace, plans)


def test_launch_heeds_the_gate(
    planned: Planner,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = next(iter(planned().plans.values())).base
    monkeypatch.setattr("sys.argv", ["sweepctl", "launch", "tiny", "--dry-run", "--require-check"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "check coordinates" in capsys.readouterr().err
    recipe = CheckedRecipe(base.model, base.parametrization, base.optimizer)
    keep(record_path(workspace, recipe), {"holds": True, "broken": []})
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code


def test_the_gate_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, sweepctl.check.verdicts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
