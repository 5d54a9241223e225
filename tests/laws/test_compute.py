"""Loss at a compute budget."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sweepctl.cli import app
from sweepctl.laws import compute
from sweepctl.laws.compute import Options
from sweepctl.laws.fit import Target
from sweepctl.laws.holdout import HoldOut, hold_out
from sweepctl.laws.observations import CannotFit, Excluded, Observations

TRUE = {"E": 1.7, "a": 2000.0, "b": 0.15}


def runs(count: int = 7, noise: float = 0.0, seed: int = 0, **true: float) -> Observations:
    flops = np.logspace(18, 23, count)
    draw = np.random.default_rng(seed)
    law = compute.loss({**TRUE, **true}, flops)
    return Observations.of(flops=flops, loss=law * np.exp(noise * draw.standard_normal(count)))


@pytest.mark.parametrize(
    "true", [{}, {"E": 0.3, "b": 0.05, "a": 25.0}, {"E": 2.5, "b": 0.5, "a": 1e9}, {"E": 0.0}]
)
@pytest.mark.parametrize("objective", ["squares", "huber"])
def test_known_parameters_come_back_exactly(true: dict, objective: str) -> None:
    fit = compute.fit(runs(**true), Options(replicates=0, objective=objective))  # type: ignore[arg-type]
    for name, value in {**TRUE, **true}.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-5, abs=1e-9)
    assert fit.starts.agreeing >= 2 and fit.objective < 1e-12


def test_a_pure_power_law_has_a_scale() -> None:
    fit = compute.fit(runs(E=0.0), Options(floor=0))
    assert fit.params == pytest.approx({"E": 0.0, "a": 2000.0, "b": 0.15})
    assert fit.derived["c"] == pytest.approx(2000 ** (1 / 0.15), rel=1e-6)
    assert fit.flags == []
    log_c, log_l = np.log(runs(noise=0.01).flops), np.log(runs(noise=0.01, E=0.0).loss)
    line = np.polyfit(log_c, log_l, 1)
    noisy = compute.fit(runs(noise=0.01, E=0.0), Options(floor=0, replicates=0))
    assert noisy.params["b"] == pytest.approx(-line[0], rel=1e-6)
    assert noisy.params["a"] == pytest.approx(np.exp(line[1]), rel=1e-5)


def test_a_floor_may_be_given() -> None:
    fit = compute.fit(runs(), Options(floor=1.7, replicates=50))
    assert fit.params == pytest.approx(TRUE)
    with pytest.raises(CannotFit, match="is not below the least loss"):
        compute.fit(runs(), Options(floor=3.0))


def test_intervals_cover() -> None:
    """Of the law's 95 % intervals, of its extrapolation 100 times further, and of a run there, pooled."""
    held = trials = 0
    true = compute.loss(TRUE, 1e25)
    designs: list[tuple[int, float, dict, int]] = [
        (7, 0.003, {}, 30), (5, 0.002, {}, 30), (20, 0.005, {"objective": "huber"}, 15),
        (7, 0.005, {"floor": 1.7}, 60),
    ]  # fmt: skip
    for count, noise, options, repeats in designs:
        for seed in range(repeats):
            fit = compute.fit(runs(count, noise, seed), Options(replicates=100, seed=seed, **options))
            prediction = compute.predict(fit, Target({"flops": 1e25}))["loss"]
            run = true * np.exp(noise * np.random.default_rng(seed + 1000).standard_normal())
            inside = [low <= TRUE[name] <= high for name in ("a", "b") for low, high in [fit.intervals[name]]]
            inside.append(prediction.interval[0] <= true <= prediction.interval[1])
            inside.append(prediction.run_interval[0] <= run <= prediction.run_interval[1])  # type: ignore[attr-defined]
            held, trials = held + sum(inside), trials + len(inside)
    assert 0.9 <= held / trials <= 0.98, held / trials


def test_rows_drawn_again_cover_where_there_are_many() -> None:
    held = 0
    for seed in range(20):
        fit = compute.fit(runs(30, 0.005, seed), Options(replicates=100, seed=seed, intervals="rows"))
        low, high = fit.intervals["b"]
        held += low <= 0.15 <= high
    assert 0.8 <= held / 20 <= 1.0


@given(st.floats(1e-6, 1e6), st.floats(0.1, 10))
@settings(max_examples=15, deadline=None)
def test_units_change_factors_alone(flops: float, loss: float) -> None:
    data = runs(noise=0.002)
    scaled = Observations.of(flops=data.flops * flops, loss=data.loss * loss)
    plain, rescaled = (compute.fit(each, Options(replicates=0)).params for each in (data, scaled))
    assert rescaled["b"] == pytest.approx(plain["b"], rel=1e-4)
    assert rescaled["E"] == pytest.approx(plain["E"] * loss, rel=1e-4)
    assert rescaled["a"] == pytest.approx(plain["a"] * loss * flops ** plain["b"], rel=2e-3)


def test_deviations_are_those_of_every_row_fitted_or_not() -> None:
    data = runs(8)
    lifted = np.where(np.arange(8) == 7, 1.02, 1.0)
    roles = ["fit"] * 7 + ["target"]
    fit = compute.fit(
        Observations.of(flops=data.flops, loss=data.loss * lifted, role=roles), Options(replicates=20)
    )
    assert fit.params["E"] == pytest.approx(1.7, abs=1e-6)
    off = fit.details["deviations"]
    assert [row["fitted"] for row in off] == [True] * 7 + [False]
    assert off[7]["deviation"] == pytest.approx(2.0, abs=1e-4)
    assert off[0]["deviation"] == pytest.approx(0.0, abs=1e-6)
    assert fit.rows_excluded == [Excluded("7", "its role is target")]


def test_the_least_of_each_budget() -> None:
    data = runs(7)
    flops, loss = np.repeat(data.flops, 3), np.concatenate([[x, 1.1 * x, 1.2 * x] for x in data.loss])
    both = Observations.of(flops=flops * np.tile([1, 1.01, 1.02], 7), loss=loss)
    fit = compute.fit(both, Options(rows="best", replicates=0))
    assert fit.params["E"] == pytest.approx(1.7, abs=1e-5) and len(fit.rows_excluded) == 14
    assert fit.flags == []
    same = compute.fit(Observations.of(flops=flops, loss=loss), Options(replicates=0))
    assert "repeated:flops" in same.flags


def test_a_floor_that_is_not_identified_is_said() -> None:
    four = compute.fit(runs(4, 0.001), Options(replicates=100))
    assert "not_identified:E" in four.flags
    shallow = compute.fit(runs(8, 0.02, seed=1, E=0.2, a=60.0, b=0.06), Options(replicates=200))
    assert "not_identified:E" in shallow.flags
    bare = compute.fit(runs(E=0.0), Options(replicates=0))
    assert {"not_identified:E", "at_bound:E"} <= set(bare.flags)
    assert compute.fit(runs(noise=1e-4), Options(replicates=200)).flags == []
    steep = Observations.of(flops=[1.0, 2, 4, 8, 16, 32], loss=1 + 1e3 * np.arange(1, 7.0) ** -20)
    assert "not_identified:b" in compute.fit(steep, Options(replicates=0)).flags


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (runs(3), "needs 4 budgets; there are 3"),
        (Observations.of(flops=[1e18] * 6, loss=[3.0] * 6), "needs 4 budgets; there are 1"),
        (Observations.of(flops=np.logspace(18, 23, 7), loss=[3.0] * 7), "do not fall"),
        (Observations.of(flops=np.logspace(18, 23, 7), loss=np.arange(1.0, 8)), "do not fall"),
        (Observations.of(flops=runs().flops, loss=runs().loss, role=["target"] * 7), "there are 0"),
    ],
)
def test_refusals_are_one_sentence(data: Observations, message: str) -> None:
    with pytest.raises(CannotFit, match=message):
        compute.fit(data, Options())


@pytest.mark.parametrize("options", [{"floor": -1.0}, {"delta": 0.0}, {"tolerance": 1.0}])
def test_options_are_checked(options: dict) -> None:
    with pytest.raises(CannotFit, match="compute needs"):
        Options(**options)


def test_extreme_numbers_do_not_break_it() -> None:
    data = runs(7, 0.01)
    for scale in (1e-200, 1e200):
        fit = compute.fit(Observations.of(flops=data.flops, loss=data.loss * scale), Options(replicates=20))
        assert fit.params["E"] == pytest.approx(scale * 1.7, rel=0.3)
    fit = compute.fit(Observations.of(flops=data.flops * 1e250, loss=data.loss), Options(replicates=20))
    assert np.isfinite(compute.predict(fit, Target({"flops": 1e275}))["loss"].value)


def test_a_held_out_scale_is_predicted() -> None:
    held_out = hold_out(compute.LAW, runs(8), Options(replicates=0), HoldOut("flops", 2))
    assert len(held_out) == 2 and max(abs(row.error) for row in held_out) < 1e-6


def test_from_a_table(tmp_path: Path) -> None:
    data = runs(7, 0.002)
    pd.DataFrame({"compute": data.flops, "nats": data.loss}).to_csv(tmp_path / "runs.csv")
    words = ["fit", str(tmp_path / "runs.csv"), "--law", "compute", "--flops", "compute", "--loss", "nats"]
    more = ["--at", "flops=1e25", "--hold-out", "flops=1", "--png", str(tmp_path / "a.png"), "--option"]
    done = CliRunner().invoke(app, [*words, *more, "replicates=50", "--json", str(tmp_path / "a.json")])
    assert done.exit_code == 0, done.output
    assert "how far rows lie from the law" in done.output and (tmp_path / "a.png").exists()
    record = json.loads((tmp_path / "a.json").read_text())
    assert len(record["details"]["deviations"]) == 7 and len(record["held_out"]) == 1
    assert record["predictions"][0]["loss"] == pytest.approx(compute.loss(TRUE, 1e25), rel=0.02)


@given(st.integers(0, 2**32 - 1))
def test_losses_that_do_not_fall_are_refused_whatever_rounding_says(seed: int) -> None:
    """Losses that mirror each other about the middle of log C have no slope but rounding's."""
    half = np.random.default_rng(seed).uniform(2.0, 4.0, 4)
    data = Observations.of(flops=np.geomspace(1e18, 1e21, 8), loss=np.concatenate([half, half[::-1]]))
    with pytest.raises(CannotFit, match="do not fall with FLOPs"):
        compute.fit(data, Options(replicates=0, rows="all"))
