"""Critical batch size: exact curves, both definitions, the published notebook, honest intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepctl.laws import critical_batch as law
from sweepctl.laws.critical_batch import Options
from sweepctl.laws.critical_batch.steps import fit_steps
from sweepctl.laws.fit import Target
from sweepctl.laws.observations import CannotFit, Excluded, Observations
from sweepctl.report.laws import draw

BATCHES = 2.0 ** np.arange(15, 24)
ZHANG = {
    85e6: (46000, 23000, 13282, 7000, 3840, 2528, 1917, 1600, 1600),
    151e6: (96000, 49000, 24000, 12000, 7128, 4350, 2940, 2400, 2300),
    302e6: (196000, 90000, 46000, 23400, 13300, 7224, 4980, 3400, 2879),
    604e6: (311000, 166000, 81000, 37440, 21320, 11400, 7199, 4700, 3800),
    1200e6: (642000, 331000, 176000, 94000, 46500, 25000, 15360, 8900, 6500),
}
"""Steps to the target loss at 64 to 16,384 sequences of 512 tokens: plots/chinchilla.ipynb of the repository
hlzhang109/critical-batch-size, of Zhang et al. 2024."""


def curves(
    noise: float = 0.0, seed: int = 0, scatter: float = 0.0, models: int = 5, bent: float = 0.0
) -> Observations:
    """B_crit = 20 N^0.6 = 4e9 / L^(1/0.2), S_min = 2000 (N / 1e8)^0.3 for every model; D = 20 N, every other
    model's e^bent times that."""
    g, rows = np.random.default_rng(seed), []
    for number, n in enumerate(np.geomspace(1e8, 2e9, models)):
        critical = 20 * n**0.6 * np.exp(scatter * g.standard_normal())
        loss = (4e9 / (20 * n**0.6)) ** 0.2
        steps = 2000 * (n / 1e8) ** 0.3 * (1 + critical / BATCHES)
        steps *= np.exp(noise * g.standard_normal(len(BATCHES)))
        rows += [
            (n, 20 * n * np.exp(bent * (number % 2)), loss, b, s) for b, s in zip(BATCHES, steps, strict=True)
        ]
    n, d, loss, batch, steps = np.array(rows).T
    group = [f"{x / 1e6:.0f}M" for x in n]
    return Observations.of(n=n, d=d, loss=loss, batch=batch, steps=steps, group=group)


@pytest.mark.parametrize("objective", ["squares", "huber"])
def test_exact_curves(objective: Any) -> None:
    fit = law.fit(curves(models=1), Options(objective=objective, replicates=20))
    b_crit = 20 * 1e8**0.6
    expected = {"S_min": 2000, "E_min": 2000 * b_crit, "B_crit": b_crit, "B_overhead": 0.2 * b_crit}
    for name, value in expected.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-6)
        assert fit.intervals[name] == pytest.approx((value, value), rel=1e-5)
    assert fit.flags == [] and fit.objective < 1e-12
    at = law.predict(fit, Target({"batch": b_crit}))["steps"].value
    assert at == pytest.approx(4000, rel=1e-6)  # twice the least steps, at twice the least tokens
    assert at * b_crit == pytest.approx(2 * fit.params["E_min"], rel=1e-6)
    overhead = law.predict(fit, Target({"batch": fit.params["B_overhead"]}))["steps"].value
    assert overhead == pytest.approx(1.2 * fit.params["E_min"] / fit.params["B_overhead"], rel=1e-6)


def test_the_overhead_is_counted_from_the_reference() -> None:
    reference = 131072.0
    fit = law.fit(curves(models=1), Options(reference=reference, overhead=0.3, replicates=0))
    steps = [
        law.predict(fit, Target({"batch": b}))["steps"].value for b in (fit.params["B_overhead"], reference)
    ]
    assert steps[0] == pytest.approx(1.3 * steps[1] * reference / fit.params["B_overhead"], rel=1e-6)


def test_the_published_notebook() -> None:
    """Zhang et al. 2024: their a, b, critical batches and power of N."""
    batch = 512 * 2.0 ** np.arange(6, 15)
    n, b, s = (np.array(x, dtype=float) for x in zip(
        *((n, b, s) for n, steps in ZHANG.items() for b, s in zip(batch, steps, strict=True)), strict=True
    ))  # fmt: skip
    data = Observations.of(n=n, batch=b, steps=s)
    fit = law.fit(data, Options(over="n", reference=256 * 512, replicates=200))
    published = [745.3201, 955.1582, 1393.7269, 1888.5221, 2533.4108]
    assert [curve["B_overhead"] / 512 for curve in fit.details["curves"]] == pytest.approx(
        published, rel=1e-5
    )
    assert fit.details["curves"][0]["S_min"] == pytest.approx(1293.8269, rel=1e-5)
    assert fit.details["curves"][0]["E_min"] == pytest.approx(2834258.09 * 512, rel=1e-5)
    assert fit.params["B_overhead_n"] == pytest.approx(0.468278, abs=1e-5)
    assert fit.params["B_crit_n"] == pytest.approx(0.619132, abs=1e-5)
    at = law.predict(fit, Target({"n": 6e9}))["B_overhead"]
    assert at.value == pytest.approx(512 * 5478.06, rel=1e-4) and at.interval[0] < at.value < at.interval[1]


def test_power_laws_over_loss_and_sizes() -> None:
    data = curves()
    kaplan = law.fit(data, Options(over="loss", replicates=50))
    assert kaplan.params["B_star"] == pytest.approx(4e9, rel=1e-5)
    assert kaplan.params["alpha_B"] == pytest.approx(0.2, rel=1e-6)
    assert kaplan.params["B_star_overhead"] == pytest.approx(0.8e9, rel=1e-5)
    batches = law.predict(kaplan, Target({"loss": 2.0}))
    assert batches["B_crit"].value == pytest.approx(4e9 / 32, rel=1e-5)
    assert batches["B_overhead"].value == pytest.approx(0.8e9 / 32, rel=1e-5)
    by_n = law.fit(data, Options(over="n", replicates=0)).params
    assert (by_n["B_crit_factor"], by_n["B_crit_n"]) == pytest.approx((20, 0.6), rel=1e-5)
    with pytest.raises(CannotFit, match="rise together"):
        law.fit(data, Options(over="n,d", replicates=0))
    near = law.fit(curves(bent=0.2), Options(over="n,d", replicates=0))
    assert {"collinear:n_d", "not_identified:B_crit_n", "not_identified:B_crit_d"} <= set(near.flags)
    both = law.fit(curves(bent=2.0), Options(over="n,d", replicates=0))
    assert both.flags == [] and both.derived["B_crit_r2"] == pytest.approx(1)
    assert (both.params["B_crit_n"], both.params["B_crit_d"]) == pytest.approx((0.6, 0), abs=1e-6)
    assert law.predict(both, Target({"n": 1e9, "d": 2e10}))["B_crit"].value == pytest.approx(
        20 * 1e9**0.6, rel=1e-4
    )
    with pytest.raises(CannotFit, match="no law over d"):
        law.predict(both, Target({"d": 1e10}))
    assert len(law.predict(both, Target({"batch": 1e6}))) == 5


def test_the_best_batch_over_loss() -> None:
    """Hu et al. 2024: B = 1.21e9 / L^6.24."""
    loss = np.array([3.8, 3.4, 3.0, 2.7, 2.4])
    data = Observations.of(loss=loss, batch=1.21e9 / loss**6.24)
    fit = law.fit(data, Options(form="optimal", replicates=50))
    assert fit.params["B_star"] == pytest.approx(1.21e9, rel=1e-9)
    assert 1 / fit.params["alpha_B"] == pytest.approx(6.24, rel=1e-9)
    assert law.predict(fit, Target({"loss": 2.0}))["batch"].value == pytest.approx(1.21e9 / 2**6.24)
    two = law.fit(data.take([0, 4]), Options(form="optimal"))
    assert two.flags == ["few_points"] and two.intervals == {}
    still = Observations.of(loss=loss, batch=[1e6, 1.1e6, 1e6, 1.2e6, 1e6])
    assert "not_identified:alpha_B" in law.fit(still, Options(form="optimal")).flags


@pytest.mark.parametrize(("noise", "scatter"), [(0.05, 0.0), (0.03, 0.2)])
def test_intervals_cover(noise: float, scatter: float) -> None:
    """Of 95 % intervals, 90 to 98 % hold the truth, pooled over parameters."""
    truth = {"B_crit_n": 0.6, "B_crit_factor": 20.0, "B_overhead_n": 0.6}
    if not scatter:
        truth |= {"S_min:100M": 2000.0, "B_crit:100M": 20 * 1e8**0.6, "B_overhead:100M": 4 * 1e8**0.6}
    held, trials = 0, 80
    for seed in range(trials):
        fit = law.fit(curves(noise, seed, scatter), Options(over="n", replicates=150, seed=seed))
        held += sum(fit.intervals[k][0] <= value <= fit.intervals[k][1] for k, value in truth.items())
    assert 0.90 <= held / (trials * len(truth)) <= 0.98


def test_intervals_of_the_best_batch_cover() -> None:
    g, held, trials = np.random.default_rng(0), 0, 150
    loss = np.linspace(2.4, 3.8, 6)
    for seed in range(trials):
        data = Observations.of(loss=loss, batch=1e9 / loss**6 * np.exp(0.2 * g.standard_normal(6)))
        fit = law.fit(data, Options(form="optimal", replicates=300, seed=seed))
        held += fit.intervals["B_star"][0] <= 1e9 <= fit.intervals["B_star"][1]
        held += fit.intervals["alpha_B"][0] <= 1 / 6 <= fit.intervals["alpha_B"][1]
    assert 0.90 <= held / (2 * trials) <= 0.98


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_units_move_with_the_answer(batch: float, steps: float) -> None:
    data = curves(0.05, 1, models=1)
    scaled = Observations.of(batch=data["batch"] * batch, steps=data["steps"] * steps)
    a, b = (law.fit(table, Options(replicates=0)).params for table in (data, scaled))
    for name, factor in (
        ("S_min", steps),
        ("E_min", steps * batch),
        ("B_crit", batch),
        ("B_overhead", batch),
    ):
        assert b[name] == pytest.approx(a[name] * factor, rel=1e-5)


def test_a_wild_row_moves_huber_less() -> None:
    data = curves(0.01, 3, models=1)
    steps = data["steps"].copy()
    steps[4] *= 3
    wild = Observations.of(batch=data["batch"], steps=steps)
    truth = 20 * 1e8**0.6
    off = {
        name: abs(np.log(law.fit(wild, Options(objective=name, replicates=0)).params["B_crit"] / truth))
        for name in ("squares", "huber")
    }
    assert off["huber"] < 0.3 * off["squares"]


@pytest.mark.parametrize("delta", [None, 0.02])
def test_the_profile_is_the_least(delta: float | None) -> None:
    """No point around the minimum is lower."""
    log_batch = np.log(BATCHES)
    log_steps = np.log(curves(0.1, 5, models=1)["steps"])
    fitted = fit_steps(log_batch, log_steps[None], delta)

    def value(level: float, ratio: float) -> float:
        size = np.abs(log_steps - level - np.log1p(np.exp(ratio - log_batch)))
        if delta is None:
            return float(np.sum(size**2))
        return float(np.sum(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))))

    least = value(fitted.level[0], fitted.ratio[0])
    assert least == pytest.approx(fitted.objective[0], rel=1e-9)
    for a, b in np.random.default_rng(0).normal(size=(200, 2)) * 0.05:
        assert value(fitted.level[0] + a, fitted.ratio[0] + b) >= least - 1e-9


def test_what_a_curve_does_not_say_is_flagged() -> None:
    batch = BATCHES
    linear = law.fit(Observations.of(batch=batch, steps=1e9 / batch), Options(replicates=20))
    assert linear.flags == [f"not_identified:{name}" for name in ("S_min", "B_crit", "B_overhead")]
    flat = law.fit(Observations.of(batch=batch, steps=np.full(9, 1000.0)), Options(replicates=20))
    assert flat.flags == [f"not_identified:{name}" for name in ("E_min", "B_crit", "B_overhead")]
    noisy = 1e9 / batch * np.exp(0.1 * np.random.default_rng(0).standard_normal(9))
    assert "not_identified:B_crit" in law.fit(Observations.of(batch=batch, steps=noisy), Options()).flags
    data = curves(0.02)
    steps = np.where(data.n == data.n[0], 1e9 / data["batch"], data["steps"])
    part = Observations.of(n=data.n, batch=data["batch"], steps=steps, group=data.label("group"))
    fit = law.fit(part, Options(over="n", replicates=50))
    assert fit.details["used"] == [curve["curve"] for curve in fit.details["curves"][1:]]
    assert fit.params["B_crit_n"] == pytest.approx(0.6, abs=0.15)


def test_curves_are_one_model_and_target_loss() -> None:
    data = curves()
    columns = {"batch": data["batch"], "steps": data["steps"]}
    by_loss = law.fit(
        Observations.of(**columns, loss=data.loss * (1 + 1e-3 * np.sin(data["batch"]))), Options(replicates=0)
    )
    assert by_loss.derived["curves"] == 5
    assert law.fit(Observations.of(**columns, n=data.n), Options(replicates=0)).derived["curves"] == 5
    short = data.keep((data.n < 1.9e9) | (data["batch"] < 1e5), "-")
    fit = law.fit(short, Options(over="n", replicates=0))
    assert fit.derived["curves"] == 4
    assert Excluded("36", "its curve has fewer than 3 batches") in fit.rows_excluded


def test_refusals_are_one_sentence() -> None:
    data = curves(models=1)
    with pytest.raises(CannotFit, match="the fullest of 1 curves has 2"):
        law.fit(data.take([0, 1, 1]), Options())
    with pytest.raises(CannotFit, match="over n needs a critical batch at 2 different values; there are 1"):
        law.fit(data, Options(over="n"))
    with pytest.raises(CannotFit, match="A column of updates is missing: name it with --steps"):
        law.fit(Observations.of(batch=BATCHES, loss=np.ones(9)), Options())
    with pytest.raises(CannotFit, match="A column of loss"):
        law.fit(Observations.of(batch=BATCHES), Options(form="optimal"))
    for bad in ({"overhead": 0}, {"delta": 0}, {"reference": -1}, {"tolerance": 1}):
        with pytest.raises(CannotFit):
            Options(**bad)


@pytest.mark.parametrize("over", ["none", "loss", "n,d"])
def test_drawn(over: Any, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", [law.fit(curves(0.03, bent=2.0), Options(over=over, replicates=20))])
    assert (tmp_path / "a.png").stat().st_size > 10_000
    if over == "loss":
        data = Observations.of(loss=[2.0, 3.0, 4.0], batch=[4e6, 2e6, 1e6])
        draw(tmp_path / "b.png", [law.fit(data, Options(form="optimal"))])
