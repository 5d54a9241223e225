"""The law of over-training and the error that follows from its loss."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepctl.fitting.observations import TableReading, observations
from sweepctl.fitting.saved import finite
from sweepctl.laws import overtraining
from sweepctl.laws.fit import Target
from sweepctl.laws.observations import CannotFit, Observations
from sweepctl.laws.overtraining import Options

C4 = {"E": 1.51, "a": 141.0, "b": 190.0, "eta": 0.121, "epsilon": 0.850, "k": 2.08, "gamma": 0.756}
"""What the code that Gadre et al. released gives for models trained on C4, rounded."""
FIVE = np.array([(1.06e7, 20), (1.06e7, 320), (7.89e7, 20), (1.54e8, 20), (4.12e8, 20)])
GRID = np.array([(n, m) for n in (1e7, 8e7, 1.5e8, 4e8) for m in (10, 20, 80, 320)])


def runs(
    places: Any = FIVE, noise: float = 0.0, seed: int = 0, params: dict[str, float] = C4, **more: Any
) -> Observations:
    """Runs at (N, M) with the law's loss and error."""
    n, m = places.T
    draw = np.random.default_rng(seed)
    loss = overtraining.loss(params, 6 * n * n * m, m) * np.exp(noise * draw.standard_normal(len(n)))
    error = overtraining.error(params, loss) + noise * draw.standard_normal(len(n))
    return Observations.of(n=n, d=n * m, flops=6 * n * n * m, loss=loss, error=error, **more)


@pytest.mark.parametrize("places", [FIVE, GRID])
@pytest.mark.parametrize("changed", [{}, {"scale": "relative"}, {"bounds": "nonnegative"}])
def test_exact_runs_give_the_exact_law(places: Any, changed: dict[str, Any]) -> None:
    fit = overtraining.fit(runs(places), Options(replicates=20, **changed))
    for name, value in C4.items():
        assert fit.params[name] == pytest.approx(value, rel=2e-4), name
    assert fit.objective < 1e-15
    best = (190 / 141) ** (1 / 0.242)
    assert fit.derived["m_best"] == pytest.approx(best, rel=1e-3)
    at = overtraining.predict(fit, Target({"n": 6.9e9, "d": 1.38e11}))
    truth = overtraining.loss(C4, 6 * 6.9e9 * 1.38e11, 20)
    assert at["loss"].value == pytest.approx(truth, rel=1e-6)
    assert at["error"].value == pytest.approx(overtraining.error(C4, truth), rel=1e-5)
    assert fit.flags == (["one_degree_of_freedom"] if places is FIVE else [])


def test_targets_name_the_same_run_in_many_ways() -> None:
    fit = overtraining.fit(runs(), Options(replicates=10))
    c, n, d, m = 6 * 1e9 * 8e10, 1e9, 8e10, 80.0
    ways = (
        {"n": n, "d": d}, {"n": n, "tokens_per_parameter": m}, {"flops": c, "tokens_per_parameter": m},
        {"flops": c, "d": d}, {"flops": c, "n": n},
    )  # fmt: skip
    values = [overtraining.predict(fit, way)["loss"] for way in ways]
    for value in values[1:]:
        assert value.value == pytest.approx(values[0].value, rel=1e-12)
        assert value.interval == pytest.approx(values[0].interval, rel=1e-9)
    best = overtraining.predict(fit, Target({"flops": c}))
    assert best["loss"].value < min(
        overtraining.predict(fit, Target({"flops": c, "tokens_per_parameter": m}))["loss"].value
        for m in (best["tokens_per_parameter"].value * share for share in (0.8, 1.25))
    )
    assert best["n"].value * best["d"].value * 6 == pytest.approx(c)
    assert {frozenset(way) for way in ways} | {frozenset({"flops"})} == {
        frozenset(roles) for roles in overtraining.LAW.targets
    }


def test_intervals_cover() -> None:
    """Parameters, the law's own loss far away, and the loss and error of new runs there."""
    held: dict[str, list[bool]] = {}
    n, m = 1.4e9, 640.0
    truth = overtraining.loss(C4, 6 * n * n * m, m)
    for seed in range(150):
        fit = overtraining.fit(runs(GRID, 0.004, seed), Options(replicates=200, seed=seed))
        for name in C4:
            low, high = fit.intervals[name]
            held.setdefault("parameters", []).append(low <= C4[name] <= high)
        at = overtraining.predict(fit, Target({"n": n, "d": n * m}))
        draw = np.random.default_rng(1000 + seed)
        loss = truth * np.exp(0.004 * draw.standard_normal())
        error = overtraining.error(C4, loss) + 0.004 * draw.standard_normal()
        low, high = at["loss"].interval
        held.setdefault("parameters", []).append(low <= truth <= high)
        for name, value in (("loss", loss), ("error", error)):
            low, high = at[name].run_interval  # type: ignore[attr-defined]
            held.setdefault("a run", []).append(low <= value <= high)
    for name, inside in held.items():
        most = 1.0 if name == "a run" else 0.98  # a run's does not take the form for true, which it is here
        assert 0.90 <= np.mean(inside) <= most, (name, np.mean(inside))


def test_five_runs_have_honest_intervals() -> None:
    """One degree of freedom: the scatter itself is hardly known, and the intervals say so."""
    held = []
    for seed in range(60):
        fit = overtraining.fit(runs(FIVE, 0.004, seed), Options(replicates=100, seed=seed))
        held += [low <= C4[name] <= high for name, (low, high) in fit.intervals.items() if name in C4]
    assert 0.90 <= np.mean(held) <= 0.98
    stated = overtraining.fit(runs(FIVE, 0.004, 1), Options(noise=0.004))
    free = overtraining.fit(runs(FIVE, 0.004, 1), Options())
    assert np.ptp(stated.intervals["eta"]) < np.ptp(free.intervals["eta"])


def test_runs_at_one_ratio_tell_only_about_that_ratio() -> None:
    places = np.array([(n, 20) for n in np.geomspace(1e7, 1e9, 7)])
    fit = overtraining.fit(runs(places, 0.0005), Options(replicates=100))
    assert {"not_identified:a", "not_identified:b"} <= set(fit.flags)
    assert "not_identified:eta" not in fit.flags and "not_identified:E" not in fit.flags
    at = overtraining.predict(fit, Target({"n": 3e9, "tokens_per_parameter": 20}))["loss"]
    assert at.value == pytest.approx(overtraining.loss(C4, 6 * 20 * 9e18, 20), rel=5e-3)
    for elsewhere in ({"n": 3e9, "tokens_per_parameter": 200}, {"flops": 1e21}):
        assert np.isnan(overtraining.predict(fit, elsewhere)["loss"].value)


def test_rows_with_a_role_are_used_as_it_says() -> None:
    places = np.concatenate([FIVE, [(1.4e9, 20), (1.4e9, 640), (6.9e9, 20)]])
    data = runs(places, role=["fit"] * 5 + ["task", "target", "target"])
    fit = overtraining.fit(data, Options(replicates=20))
    assert len(fit.rows_used) == 6 and len(fit.details["errors"]["loss"]) == 6
    assert [row.row for row in fit.rows_excluded] == ["6", "7"]
    assert [row["quantity"] for row in fit.details["targets"]] == [
        "loss", "error at the true loss", "chained error"
    ] * 2  # fmt: skip
    assert max(abs(row["error"]) for row in fit.details["targets"]) < 1e-5
    assert fit.derived["error_of_chained_error"] < 1e-5


@pytest.mark.parametrize("resample", ["noise", "rows", "runs"])
def test_every_kind_of_replicate(resample: Any) -> None:
    data = runs(GRID, 0.003, run=[str(i // 2) for i in range(16)])
    fit = overtraining.fit(data, Options(replicates=60, resample=resample))
    low, high = fit.intervals["eta"]
    assert low < fit.params["eta"] < high
    again = overtraining.fit(data, Options(replicates=60, resample=resample))
    assert again.intervals == fit.intervals


def test_counted_flops_are_used_where_asked() -> None:
    data = runs(GRID)
    twice = Observations.of(n=data.n, d=data.d, flops=2 * data.flops, loss=data.loss)
    fit = overtraining.fit(twice, Options(replicates=5, compute="column"))
    assert fit.derived["flops_per_nd"] == pytest.approx(12) and "gamma" not in fit.params
    assert fit.params["a"] == pytest.approx(141 * 2**0.121, rel=1e-3)
    at = {"n": 6.9e9, "d": 1.38e11}
    plain = overtraining.fit(data, Options(replicates=5))
    assert overtraining.predict(fit, at)["loss"].value == pytest.approx(
        overtraining.predict(plain, at)["loss"].value, rel=1e-6
    )


@settings(max_examples=15, deadline=None)
@given(st.floats(0.2, 5), st.floats(1e-3, 1e3))
def test_units_change_only_factors(unit: float, tokens: float) -> None:
    """Losses in another unit scale E, a and b; N and D in another unit change a and b by C's factor."""
    data = runs(GRID, 0.001)
    plain = overtraining.fit(Observations.of(n=data.n, d=data.d, loss=data.loss), Options(replicates=0))
    rescaled = overtraining.fit(
        Observations.of(n=data.n * tokens, d=data.d * tokens, loss=data.loss * unit), Options(replicates=0)
    )
    eta = plain.params["eta"]
    assert rescaled.params["eta"] == pytest.approx(eta, rel=1e-4)
    assert rescaled.params["E"] == pytest.approx(unit * plain.params["E"], rel=1e-4)
    for name in ("a", "b"):
        assert rescaled.params[name] == pytest.approx(
            unit * tokens ** (2 * eta) * plain.params[name], rel=5e-3
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss": np.full(16, 3.0)}, "losses are all 3"),
        ({"error": np.full(16, 0.5)}, "errors are all 0.5"),
        ({"n": np.full(16, 1e8), "d": np.full(16, 2e9)}, "four different"),
        ({"role": ["fit"] * 4 + ["target"] * 12}, "needs 5 runs; there are 4"),
        ({"role": ["target"] * 16}, "None of the 16 rows"),
        ({"role": ["other"] * 16}, "'other'"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], message: str) -> None:
    data = runs(GRID, 0.001)
    with pytest.raises(CannotFit, match=message):
        overtraining.fit(Observations.of(**{**data.columns, **changed}), Options(replicates=5))


def test_flags() -> None:
    data = runs(GRID, 0.001)
    rising = Observations.of(n=data.n, d=data.d, loss=2 + 0.1 * np.log(data.flops))
    fit = overtraining.fit(rising, Options(replicates=5))
    assert "not_identified:eta" in fit.flags and "m_best" not in fit.derived
    assert np.isnan(overtraining.predict(fit, Target({"flops": 1e21}))["n"].value)
    bound = overtraining.fit(rising, Options(replicates=5, bounds="nonnegative"))
    assert min(bound.params[name] for name in ("E", "a", "b")) >= 0
    assert any(flag.startswith("at_bound") for flag in bound.flags)


@pytest.mark.parametrize("wrong", [{"eta": (0.5,)}, {"gamma": (2.0, 1.0)}, {"noise": -1.0}])
def test_options_that_are_not_valid(wrong: dict[str, Any]) -> None:
    with pytest.raises(CannotFit):
        Options(**wrong)


GADRE = """\
dataset,n,d,loss,error,role
rpj,10569312,211386240,5.387020915,0.813485737,fit
rw_original,10569312,211386240,5.27189238,0.80907069,fit
c4_original,10569312,211386240,5.220676313,0.80367369,fit
c4_original,10569312,3382179840,4.50640353,0.789722653,fit
rpj,10569312,3382179840,4.572292613,0.767101908,fit
rw_original,10569312,3382179840,4.516044719,0.787523107,fit
rpj,78914048,1578280960,3.89994299,0.725045183,fit
rw_original,78914048,1578280960,3.860916361,0.701088892,fit
c4_original,78914048,1578280960,3.800284412,0.740027169,fit
rw_original,153677376,3073547520,3.517893769,0.682528646,fit
rpj,153677376,3073547520,3.531147408,0.671008028,fit
c4_original,153677376,3073547520,3.43264575,0.676734163,fit
rw_original,411616256,8232325120,3.130516051,0.637013378,fit
c4_original,411616256,8232325120,3.041736734,0.648740596,fit
rpj,411616256,8232325120,3.149769457,0.636552907,fit
c4_original,1439795200,28795904000,2.656858712,0.570685787,task
rpj,1439795200,28795904000,2.768756662,0.547325305,task
rw_original,1439795200,28795904000,2.76335131,0.545633689,task
c4_original,1439795200,115183616000,2.472413073,0.490964612,target
rw_original,1439795200,460734464000,2.531392898,0.469046702,target
c4_original,6889410560,137788211200,2.382220423,0.479578344,target
rpj,6889410560,137788211200,2.424993099,0.471637181,target
rw_original,6889410560,137788211200,2.454721562,0.450455688,target
rpj,1439795200,921468928000,2.502053562,0.475215232,target
"""
"""Runs that the authors fit and predict, of github.com/mlfoundations/scaling (MIT): parameters, tokens,
loss on C4 and mean error of their 17 tasks."""


@pytest.mark.parametrize(
    ("dataset", "params"),
    [
        ("c4_original", (1.508, 141.3, 189.5, 0.1212, 0.8497, 2.079, 0.7561)),
        ("rpj", (1.837, 212.2, 366.7, 0.1364, 0.8570, 2.206, 0.7146)),
        ("rw_original", (1.734, 157.1, 246.2, 0.1272, 0.8653, 2.215, 0.7070)),
    ],
)
def test_the_authors_runs(dataset: str, params: tuple[float, ...]) -> None:
    """What the released code gives, in the order of C4."""
    frame = pd.read_csv(io.StringIO(GADRE)).query(f"dataset == '{dataset}'").drop(columns="dataset")
    fit = overtraining.fit(observations(frame, overtraining.LAW, TableReading()), Options(replicates=20))
    assert [fit.params[name] for name in C4] == pytest.approx(params, rel=5e-4)
    if dataset == "rpj":
        errors = {(row["n"], row["quantity"]): 100 * abs(row["error"]) for row in fit.details["targets"]}
        assert errors[1439795200, "loss"] == pytest.approx(0.7103, abs=1e-3)
        assert errors[6889410560, "loss"] == pytest.approx(0.7320, abs=1e-3)
        assert errors[1439795200, "chained error"] == pytest.approx(3.6365, abs=1e-3)
        assert errors[6889410560, "chained error"] == pytest.approx(0.0464, abs=1e-3)


def test_what_is_no_number_survives_being_kept() -> None:
    """A best ratio that some replicates have not is none in JSON and not a number again."""
    fit = overtraining.fit(runs(FIVE, 0.05, 1), Options(replicates=200))
    assert np.isnan(fit.arrays()["m_best"]).any()
    again = dataclasses.replace(fit, samples=json.loads(json.dumps(finite(fit.samples), allow_nan=False)))
    at = {"flops": 1e21}
    assert overtraining.predict(again, at)["n"].interval == overtraining.predict(fit, at)["n"].interval
