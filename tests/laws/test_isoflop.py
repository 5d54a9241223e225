"""Method 2."""

from __future__ import annotations

import numpy as np
import pytest

from sweepctl.laws import isoflop, parametric
from sweepctl.laws.isoflop import Options
from sweepctl.laws.law import CannotFit, Observations
from tests.laws.common import SHARED, observed


def parabolas(
    exponent: float = 0.5, spread: float = 1.0, noise: float = 0.0, seed: int = 0, offset=0.0
) -> Observations:
    """Exact parabolas in log N around N* = C^exponent / 1000."""
    rows = []
    draw = np.random.default_rng(seed)
    for flops in np.geomspace(1e18, 1e21, 6):
        best = flops**exponent / 1000
        for step in np.linspace(-spread, spread, 7):
            n = best * np.exp(step + offset)
            loss = 100 * flops**-0.05 + 0.05 * (step + offset) ** 2
            rows.append((n, flops / 6 / n, flops, loss * np.exp(noise * draw.standard_normal())))
    n, d, c, loss = np.array(rows).T
    return observed(n, d, c, loss, tuple(f"r{i}" for i in range(len(n))))


def test_exact_parabolas_give_the_exact_law() -> None:
    made = isoflop.fit(parabolas(0.53), Options(noise=1e-4, replicates=100))
    assert made.params["a"] == pytest.approx(0.53, abs=1e-6)
    assert made.params["b"] == pytest.approx(0.47, abs=1e-6)
    assert made.params["c"] == pytest.approx(-0.05, abs=1e-6)
    assert made.derived["budgets"] == 6 and made.flags == [] and len(made.rows_used) == 42
    found = isoflop.predict(made, {"flops": 1e22})["n"]
    n, (low, high) = found.value, found.interval
    assert n == pytest.approx(1e22**0.53 / 1000, rel=1e-4) and low <= n <= high


def test_a_minimum_at_the_edge_is_refused_and_said() -> None:
    data = parabolas()
    off = data.flops > 9e20
    shifted = observed(
        data.n, data.d, data.flops, np.where(off, 4 + 0.1 * np.log(data.n / data.n[-7]), data.loss), data.rows
    )
    made = isoflop.fit(shifted, Options(noise=1e-3, replicates=50))
    assert [flag.split(":")[0] for flag in made.flags] == ["edge_minimum"] or made.flags[0].startswith(
        "concave"
    )
    assert made.derived["budgets"] == 5
    assert {row["row"] for row in made.rows_excluded} == {f"r{i}" for i in range(35, 42)}
    with pytest.raises(CannotFit, match="minima at two budgets"):
        isoflop.fit(parabolas(offset=3.0), Options(noise=1e-3))


def test_concave_budgets_are_refused() -> None:
    data = parabolas()
    flipped = observed(data.n, data.d, data.flops, 2 * data.loss.max() - data.loss, data.rows)
    with pytest.raises(CannotFit, match="minima at"):
        isoflop.fit(flipped, Options(noise=1e-3))


def test_budgets_are_grouped_within_the_tolerance() -> None:
    data = parabolas()
    jitter = np.exp(0.02 * np.random.default_rng(0).standard_normal(len(data)))
    rounded = observed(data.n, data.d * jitter, data.flops * jitter, data.loss, data.rows)
    assert isoflop.fit(rounded, Options(noise=1e-3, replicates=20)).derived["budgets"] == 6
    few = observed(data.n[:16], data.d[:16], data.flops[:16], data.loss[:16], data.rows[:16])
    made = isoflop.fit(few, Options(noise=1e-3, replicates=20))
    assert made.flags == ["two_budgets"]
    assert {row["reason"] for row in made.rows_excluded} == {
        "its budget was trained at 2 of the 3 sizes a parabola needs"
    }


def test_intervals_cover() -> None:
    trials = held = 0
    for seed in range(100):
        made = isoflop.fit(
            parabolas(0.5, noise=0.003, seed=seed), Options(noise=0.003, replicates=200, seed=seed)
        )
        low, high = made.intervals["a"]
        held += low <= 0.5 <= high
        trials += 1
    assert 0.88 <= held / trials <= 0.99


def test_noise_comes_from_the_parametric_law_where_none_is_given() -> None:
    true = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
    rows = [
        (n, c / 6 / n, c) for c in np.geomspace(1e18, 1e20, 5) for n in c**0.46 / 4 * np.geomspace(0.2, 5, 7)
    ]
    n, d, c = np.array(rows).T
    loss = parametric.loss(true, n, d) * np.exp(0.004 * np.random.default_rng(0).standard_normal(len(n)))
    made = isoflop.fit(observed(n, d, c, loss, tuple(map(str, range(len(n))))), Options(replicates=20))
    assert made.protocol["noise_from"] == "residuals of the parametric law"
    assert made.protocol["noise"] == pytest.approx(0.004, rel=0.35)


@pytest.mark.skipif(not SHARED.exists(), reason="the public tables are not beside this checkout")
def test_the_cs336_runs() -> None:
    """The parabola is biased even without noise; argmin would be off by 0.046."""
    rows = np.genfromtxt(SHARED / "cs336_synthetic" / "isoflops.csv", delimiter=",", names=True)
    n, flops = rows["params"], rows["flop_budget"]
    data = observed(n, flops / 6 / n, flops, rows["loss"], tuple(map(str, range(len(n)))))
    made = isoflop.fit(data, Options(noise=1e-3))
    assert made.params["a"] == pytest.approx(0.5146, abs=5e-4)
    assert isoflop.predict(made, {"flops": 1e24})["n"].value == pytest.approx(2.981e11, rel=2e-3)
