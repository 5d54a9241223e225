"""Method 2."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepctl.laws import isoflop, parametric
from sweepctl.laws.fit import Target
from sweepctl.laws.holdout import HoldOut, hold_out
from sweepctl.laws.isoflop import Options
from sweepctl.laws.isoflop.budgets import Parabola
from sweepctl.laws.observations import CannotFit, Observations
from tests.laws.common import DATA, SHARED, needs, observed


def choose(**choices: Any) -> Options:
    """Options for losses without a floor, which parabolas() are."""
    return Options(**{"floor": 0.0, **choices})


def parabolas(
    exponent: float = 0.5, spread: float = 1.0, noise: float = 0.0, seed: int = 0, offset=0.0, sizes: int = 7
) -> Observations:
    """Exact parabolas in log N around N* = C^exponent / 1000."""
    rows = []
    draw = np.random.default_rng(seed)
    for flops in np.geomspace(1e18, 1e21, 6):
        best = flops**exponent / 1000
        for step in np.linspace(-spread, spread, sizes):
            n = best * np.exp(step + offset)
            loss = 100 * flops**-0.05 + 0.05 * (step + offset) ** 2
            rows.append((n, flops / 6 / n, flops, loss * np.exp(noise * draw.standard_normal())))
    n, d, c, loss = np.array(rows).T
    return observed(n, d, c, loss, tuple(f"r{i}" for i in range(len(n))))


def test_exact_parabolas_give_the_exact_law() -> None:
    fit = isoflop.fit(parabolas(0.53), choose(noise=1e-4, replicates=100))
    assert fit.params["a"] == pytest.approx(0.53, abs=1e-6)
    assert fit.params["b"] == pytest.approx(0.47, abs=1e-6)
    assert fit.params["c"] == pytest.approx(-0.05, abs=1e-6)
    assert fit.derived["budgets"] == 6 and fit.flags == [] and len(fit.rows_used) == 42
    optimum = isoflop.predict(fit, Target({"flops": 1e22}))["n"]
    n, (low, high) = optimum.value, optimum.interval
    assert n == pytest.approx(1e22**0.53 / 1000, rel=1e-4) and low <= n <= high


@pytest.mark.parametrize("loss", ["raw", "log"])
def test_a_fit_carries_its_parabolas(loss: str) -> None:
    """So that whoever draws one has no need to fit it again."""
    fit = isoflop.fit(parabolas(noise=3e-3), choose(noise=1e-3, replicates=0, loss=loss))
    for budget, minimum in zip(fit.details["budgets"], fit.details["minima"], strict=True):
        x, y = np.log(budget["x"]), np.array(budget["loss"])
        parabola = Parabola(**budget["parabola"])
        expected = np.polynomial.Polynomial.fit(x, y if loss == "raw" else np.log(y), 2)
        assert parabola.at(x) == pytest.approx(expected(x), rel=1e-9)
        drawn = parabola.at(np.log(budget["curve"]["x"]))
        assert budget["curve"]["loss"] == pytest.approx(drawn if loss == "raw" else np.exp(drawn), rel=1e-9)
        bottom = parabola.at(np.array([parabola.center - parabola.tilt / (2 * parabola.bend)]))[0]
        assert minimum["loss"] == pytest.approx(bottom if loss == "raw" else np.exp(bottom), rel=1e-9)


def test_a_minimum_at_the_edge_is_refused_and_said() -> None:
    data = parabolas()
    beyond = 4 + 0.1 * (np.log(data.n / data.n[-7]) + 1) ** 2
    shifted = observed(data.n, data.d, data.flops, np.where(data.flops > 9e20, beyond, data.loss), data.rows)
    fit = isoflop.fit(shifted, choose(noise=1e-3, replicates=50))
    assert fit.flags == ["edge_minimum:1e21"]
    assert fit.derived["budgets"] == 5
    assert {row.row for row in fit.rows_excluded} == {f"r{i}" for i in range(35, 42)}
    with pytest.raises(CannotFit, match="minima at two budgets"):
        isoflop.fit(parabolas(offset=3.0), choose(noise=1e-3))


def test_concave_budgets_are_refused() -> None:
    data = parabolas()
    flipped = observed(data.n, data.d, data.flops, 2 * data.loss.max() - data.loss, data.rows)
    with pytest.raises(CannotFit, match="minima at"):
        isoflop.fit(flipped, choose(noise=1e-3))


def test_budgets_are_grouped_within_the_tolerance() -> None:
    data = parabolas()
    jitter = np.exp(0.02 * np.random.default_rng(0).standard_normal(len(data)))
    rounded = observed(data.n, data.d * jitter, data.flops * jitter, data.loss, data.rows)
    assert isoflop.fit(rounded, choose(noise=1e-3, replicates=20)).derived["budgets"] == 6
    few = observed(data.n[:16], data.d[:16], data.flops[:16], data.loss[:16], data.rows[:16])
    fit = isoflop.fit(few, choose(noise=1e-3, replicates=20))
    assert fit.flags == ["two_budgets"]
    assert {row.reason for row in fit.rows_excluded} == {
        "its budget was trained at 2 of the 3 sizes a parabola needs"
    }


@pytest.mark.parametrize(
    "options", [{}, {"weights": "spread"}, {"curve": "akima", "loss": "log", "weights": "spread"}]
)
def test_intervals_cover(options: dict) -> None:
    """Where minima are well inside their budgets; pooled over N*, D* and L*."""
    trials = held = 0
    for seed in range(80):
        fit = isoflop.fit(
            parabolas(0.5, noise=0.001, seed=seed), choose(noise=0.001, replicates=200, seed=seed, **options)
        )
        for name, true in (("a", 0.5), ("b", 0.5), ("c", -0.05)):
            low, high = fit.intervals[name]
            held += low <= true <= high
            trials += 1
    assert 0.9 <= held / trials <= 0.985


def test_rows_drawn_again_cover_too() -> None:
    held = 0
    for seed in range(60):
        data = parabolas(0.5, noise=0.001, seed=seed, sizes=13)
        fit = isoflop.fit(data, choose(intervals="rows", replicates=200, seed=seed))
        low, high = fit.intervals["a"]
        held += low <= 0.5 <= high
    assert 0.88 <= held / 60 <= 1
    assert fit.protocol["intervals"] == "95 % percentiles over rows of each budget"


@pytest.mark.parametrize("over", ["n", "d", "m"])
@pytest.mark.parametrize("curve", [{}, {"curve": "akima", "loss": "log", "per_size": "best"}, {"window": 2}])
def test_over_whatever_it_runs_a_symmetric_minimum_is_found(over: str, curve: dict) -> None:
    data = parabolas(0.53)
    fit = isoflop.fit(data, choose(over=over, noise=1e-5, replicates=20, **curve))  # type: ignore[arg-type]
    assert fit.params["a"] == pytest.approx(0.53, abs=1e-6)
    assert fit.params["b"] == pytest.approx(0.47, abs=1e-6)
    optimum = isoflop.predict(fit, Target({"flops": 1e22}))
    assert optimum["n"].value == pytest.approx(1e22**0.53 / 1000, rel=1e-4)
    assert optimum["n"].value * optimum["d"].value == pytest.approx(1e22 / 6, rel=1e-4)
    assert optimum["tokens_per_parameter"].value == pytest.approx(optimum["d"].value / optimum["n"].value)
    assert optimum["loss"].value == pytest.approx(100 * 1e22**-0.05, rel=1e-3)
    if over == "m":
        assert optimum["flops_per_token"].value == pytest.approx(6 * optimum["n"].value, rel=1e-4)


def test_flops_that_are_not_six_n_d() -> None:
    """Hunyuan-Large: C = 9.59 N D + 2.3e8 D; D* at N* is that of the budget."""
    rows = []
    for flops in np.geomspace(1e18, 1e21, 6):
        for step in np.linspace(-1, 1, 9):
            n = flops**0.5 / 100 * np.exp(step)
            rows.append((n, flops / (9.59 * n + 2.3e8), flops, 3 + 0.05 * step**2))
    n, d, c, loss = np.array(rows).T
    fit = isoflop.fit(observed(n, d, c, loss), choose(noise=1e-6, replicates=20))
    assert fit.params["a"] == pytest.approx(0.5, abs=1e-6)
    for minimum in fit.details["minima"]:
        cost = 9.59 * minimum["n"] * minimum["d"] + 2.3e8 * minimum["d"]
        assert cost == pytest.approx(minimum["flops"], rel=1e-3)


def test_an_akima_minimum_is_the_least_of_the_spline() -> None:
    from scipy.interpolate import Akima1DInterpolator

    from sweepctl.laws.isoflop.budgets import _akima

    draw = np.random.default_rng(0)
    x, y = np.sort(draw.uniform(0, 5, 9)), draw.uniform(1, 2, (40, 9))
    minima, grid = _akima(x, y), np.linspace(x[0], x[-1], 40001)
    for place, losses in enumerate(y):
        value = Akima1DInterpolator(x, losses)(grid)
        assert minima.loss[place] == pytest.approx(value.min(), abs=1e-6)
        assert minima.problem[place] == ("edge" if value.argmin() in (0, len(grid) - 1) else "")


@pytest.mark.parametrize(
    ("kept", "losses"), [("nearest", [3.0]), ("best", [2.9]), ("mean", [3.0333]), ("all", [3.2, 3.0, 2.9])]
)
def test_one_row_a_size(kept: str, losses: list[float]) -> None:
    data = parabolas()
    more = Observations.of(
        n=[*data.n, data.n[3], data.n[3]], d=[*data.d, *data.d[[3, 3]] * [1.02, 0.95]],
        flops=[*data.flops, *data.flops[[3, 3]] * [1.02, 0.95]], loss=[*data.loss, 2.9, 3.2],
    )  # fmt: skip
    more = Observations.of(
        n=more.n, d=more.d, flops=more.flops, loss=np.where(np.arange(44) == 3, 3.0, more.loss)
    )
    named = tuple(np.geomspace(1e18, 1e21, 6))
    fit = isoflop.fit(more, choose(budgets=named, per_size=kept, noise=1e-4, replicates=5))  # type: ignore[arg-type]
    first = fit.details["budgets"][0]
    there = [loss for n, loss in zip(first["n"], first["loss"], strict=True) if n == pytest.approx(data.n[3])]
    assert sorted(there) == pytest.approx(sorted(losses), abs=1e-3)
    reasons = {row.row: row.reason for row in fit.rows_excluded}
    assert set(reasons) == {"nearest": {"42", "43"}, "best": {"3", "43"}}.get(kept, set())


def test_edges_may_be_kept_and_are_said_all_the_same() -> None:
    off = parabolas(offset=1.5)
    with pytest.raises(CannotFit, match="minima at two budgets"):
        isoflop.fit(off, choose(noise=1e-6))
    fit = isoflop.fit(off, choose(noise=1e-6, edges="keep", replicates=20))
    assert fit.params["a"] == pytest.approx(0.5, abs=1e-5)
    assert len(fit.flags) == 6 and all(flag.startswith("edge_minimum:") for flag in fit.flags)


def test_a_budget_whose_copies_have_no_minimum_is_dropped() -> None:
    data = parabolas()
    flat = np.where(data.flops < 2e18, data.loss.mean() + 1e-4 * (data.loss - data.loss.mean()), data.loss)
    fit = isoflop.fit(observed(data.n, data.d, data.flops, flat), choose(noise=3e-3, weights="spread"))
    assert fit.flags == ["noisy_minimum:1e18"] and fit.derived["budgets"] == 5
    assert [budget["problem"] for budget in fit.details["budgets"]].count("noisy") == 1


def test_the_median_of_the_copies_is_where_they_are() -> None:
    fit = isoflop.fit(parabolas(0.53), choose(noise=1e-4, optimum="median", weights="spread"))
    assert fit.params["a"] == pytest.approx(0.53, abs=2e-3)
    assert fit.params["a"] != pytest.approx(0.53, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0}, "tolerance between 0 and 1"), ({"noise": -1.0}, "noise of at least 0"),
        ({"window": 0}, "window of at least 1"), ({"budgets": (0.0, 1e18)}, "budgets above 0"),
        ({"curve": "akima", "per_size": "all"}, "one row a size"),
    ],
)  # fmt: skip
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(CannotFit, match=message):
        choose(**options)


@pytest.mark.parametrize("options", [{}, {"curve": "akima"}, {"over": "d"}, {"intervals": "rows"}])
def test_hostile_tables_are_refused_in_a_sentence(options: dict) -> None:
    data = parabolas()
    same = np.full(len(data), 1e18)
    for n, flops, loss in (
        (data.n, data.flops, np.full(len(data), 3.0)),
        (data.n[:1], data.flops[:1], data.loss[:1]),
        (same / 1e9, data.flops, data.loss),
        (data.n, same, data.loss),
        (data.n, data.flops, data.n / 1e3),
    ):
        with pytest.raises(CannotFit, match="minima at two budgets"):
            isoflop.fit(observed(n, flops / 6 / n, flops, loss), choose(replicates=20, **options))


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_units_change_factors_alone(tokens: float, flops: float, loss: float) -> None:
    data = parabolas(noise=0.0005)
    scaled = observed(data.n, data.d * tokens, data.flops * flops, data.loss * loss)
    plain, rescaled = (isoflop.fit(each, choose(noise=0, replicates=5)).params for each in (data, scaled))
    for name in ("a", "b", "c"):
        assert rescaled[name] == pytest.approx(plain[name], abs=1e-8)
    assert rescaled["k_l"] == pytest.approx(plain["k_l"] * loss * flops ** -plain["c"], rel=1e-6)


def test_only_whole_budgets_can_be_held_out() -> None:
    data = parabolas()
    rows = hold_out(isoflop.LAW, data, choose(noise=1e-4, replicates=0), HoldOut("flops", 1))
    assert len(rows) == 1 and abs(rows[0].error) < 1e-3
    with pytest.raises(CannotFit, match="only whole budgets can be held out"):
        hold_out(isoflop.LAW, data, choose(noise=1e-4, replicates=0), HoldOut("n", 1))


def test_noise_comes_from_the_parametric_law_where_none_is_given() -> None:
    true = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
    rows = [
        (n, c / 6 / n, c) for c in np.geomspace(1e18, 1e20, 5) for n in c**0.46 / 4 * np.geomspace(0.2, 5, 7)
    ]
    n, d, c = np.array(rows).T
    loss = parametric.loss(true, n, d) * np.exp(0.004 * np.random.default_rng(0).standard_normal(len(n)))
    fit = isoflop.fit(observed(n, d, c, loss, tuple(map(str, range(len(n))))), choose(replicates=20))
    assert fit.protocol["noise_from"] == "residuals of the parametric law"
    assert fit.protocol["noise"] == pytest.approx(0.004, rel=0.35)


def test_the_cs336_runs() -> None:
    """The parabola is biased even without noise."""
    rows = np.genfromtxt(DATA / "cs336_isoflop.csv", delimiter=",", names=True)
    n, flops = rows["params"], rows["flop_budget"]
    data = observed(n, flops / 6 / n, flops, rows["loss"], tuple(map(str, range(len(n)))))
    fit = isoflop.fit(data, choose(noise=1e-3))
    assert fit.params["a"] == pytest.approx(0.5146, abs=5e-4)
    n = isoflop.predict(fit, Target({"flops": 1e24}))["n"].value
    best, _ = parametric.optimum({"A": 1606.4, "B": 3210.7, "alpha": 0.34, "beta": 0.36}, 1e24)
    assert n == pytest.approx(2.981e11, rel=2e-3) and n / best - 1 == pytest.approx(-0.007, abs=1e-3)
    floored = isoflop.fit(data, Options(noise=1e-4, replicates=50))
    assert floored.params["a"] == fit.params["a"]
    assert floored.params["E"] == pytest.approx(2.69, abs=0.005) and floored.flags == []


def hoffmann(noise: float = 0.0, seed: int = 0) -> Observations:
    """L = 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28, from a quarter of the optimum to four times it."""
    c = np.repeat(np.geomspace(1e18, 3e21, 6), 7)
    n = 1.34 * (c / 6) ** 0.452 * np.tile(np.geomspace(0.25, 4, 7), 6)
    d = c / 6 / n
    loss = 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28
    return observed(n, d, c, loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n))))


def test_a_floor_of_the_loss_is_found() -> None:
    """A power law without one would be a tenth too low at thirty times the largest budget."""
    n, d = parametric.optimum({"A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}, 1e23)
    true = 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28
    fit = isoflop.fit(hoffmann(), Options(noise=1e-4, replicates=50))
    assert fit.params["E"] == pytest.approx(1.69, abs=0.02) and fit.flags == []
    assert isoflop.predict(fit, Target({"flops": 1e23}))["loss"].value == pytest.approx(true, rel=2e-3)
    bare = isoflop.fit(hoffmann(), Options(noise=1e-4, replicates=50, floor=0))
    assert "E" not in bare.params
    assert isoflop.predict(bare, Target({"flops": 1e23}))["loss"].value < 0.92 * true
    with pytest.raises(CannotFit, match="is not below the least loss"):
        isoflop.fit(hoffmann(), Options(noise=1e-4, floor=3.0))
    few = isoflop.fit(hoffmann().keep(hoffmann().flops < 5e19, "large"), Options(noise=1e-4, replicates=5))
    assert "E" not in few.params and few.flags == ["not_identified:E"]


NINE = (6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21)


@needs("chinchilla_besiroglu/runs.csv")
@pytest.mark.parametrize(
    ("window", "budgets", "exponent"), [(None, 9, 0.4951), (3, 6, 0.5280), (2, 5, 0.5464)]
)
def test_the_chinchilla_points(window: int | None, budgets: int, exponent: float) -> None:
    """All nine budgets count, one with its vertex outside the sizes trained, which is refused by default."""
    rows = np.genfromtxt(SHARED / "chinchilla_besiroglu" / "runs.csv", delimiter=",", names=True)
    n, flops = rows["model_params"], rows["training_flop"]
    data = observed(n, flops / 6 / n, flops, rows["loss_nats"])
    kept = choose(budgets=NINE, window=window, edges="keep", noise=0, replicates=0)
    fit = isoflop.fit(data, kept)
    assert fit.params["a"] == pytest.approx(exponent, abs=1e-4)
    assert fit.derived["budgets"] == budgets
    if window is None:
        assert len(fit.rows_used) == 123 and fit.flags == ["edge_minimum:1e20"]
        strict = isoflop.fit(data, choose(budgets=NINE, noise=0, replicates=0))
        assert strict.derived["budgets"] == 8 and strict.params["a"] == pytest.approx(0.4920, abs=1e-4)
