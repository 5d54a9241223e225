"""Method 3: exact without noise, honest with it, right on the public points where they are."""

from __future__ import annotations

import numpy as np
import pytest

from sweepctl.laws import parametric
from sweepctl.laws.law import CannotFit, Observations
from sweepctl.laws.parametric import Options
from tests.laws.common import SHARED, observed

TRUE = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def grid(noise: float = 0.0, seed: int = 0, sizes: int = 6, budgets: int = 6) -> Observations:
    n, ratio = np.meshgrid(np.geomspace(1e7, 3e9, sizes), np.geomspace(3, 300, budgets))
    n, d = n.ravel(), (n * ratio).ravel()
    loss = parametric.loss(TRUE, n, d) * np.exp(noise * np.random.default_rng(seed).standard_normal(n.size))
    return observed(n, d, 6 * n * d, loss, tuple(f"r{i}" for i in range(n.size)))


def test_known_parameters_come_back_exactly() -> None:
    made = parametric.fit(grid(), Options(replicates=0))
    for name, value in TRUE.items():
        assert made.params[name] == pytest.approx(value, rel=1e-5)
    assert made.starts["agreeing"] == made.starts["tried"] == 49
    assert made.objective < 1e-12 and made.flags == []


@pytest.mark.parametrize("true", [{"alpha": 0.1, "beta": 0.9}, {"E": 0.01}, {"alpha": 1.2, "A": 1e8}])
def test_unlike_chinchilla_too(true: dict) -> None:
    truth = {**TRUE, **true}
    data = grid()
    loss = parametric.loss(truth, data.n, data.d)
    made = parametric.fit(observed(data.n, data.d, data.flops, loss, data.rows), Options(replicates=0))
    assert parametric.loss(made.params, data.n, data.d) == pytest.approx(loss, rel=1e-6)


def test_intervals_cover() -> None:
    """Of 95 % intervals over resampled rows, 90 to 98 % hold the truth."""
    held = dict.fromkeys(("alpha", "beta", "E", "a"), 0)
    truth = {**TRUE, "a": TRUE["beta"] / (TRUE["alpha"] + TRUE["beta"])}
    trials = 100
    for seed in range(trials):
        made = parametric.fit(
            grid(0.004, seed, 7, 7), Options(replicates=250, seed=seed, exponents=(0.3, 0.5))
        )
        for name in held:
            low, high = made.intervals[name]
            held[name] += low <= truth[name] <= high
    assert all(count / trials >= 0.88 for count in held.values()), held
    assert 0.90 <= sum(held.values()) / (trials * len(held)) <= 0.985, held


def test_a_prediction_holds_new_runs() -> None:
    """Of 95 % intervals of a run, about 95 % hold a run that was not fitted."""
    held = trials = 0
    for seed in range(40):
        made = parametric.fit(grid(0.01, seed), Options(replicates=250, exponents=(0.3, 0.5)))
        new = np.exp(0.01 * np.random.default_rng(1000 + seed).standard_normal(5))
        for factor in new:
            n, d = 6e9, 2e11
            found = parametric.predict(made, n, d)
            assert found.run_interval[0] <= found.interval[0] <= found.interval[1] <= found.run_interval[1]
            held += found.run_interval[0] <= parametric.loss(TRUE, n, d) * factor <= found.run_interval[1]
            trials += 1
    assert 0.88 <= held / trials <= 1.0


def test_the_optimum_is_one() -> None:
    for flops in (1e19, 1e22):
        n, d = parametric.optimum(TRUE, flops)
        assert 6 * n * d == pytest.approx(flops)
        best = parametric.loss(TRUE, n, d)
        for factor in (0.97, 1.03):
            assert parametric.loss(TRUE, n * factor, d / factor) > best


@pytest.mark.parametrize(
    ("keep", "flag"),
    [
        (lambda n, d: np.isin(n, np.unique(n)[:2]), "not_identified:alpha"),
        (lambda n, d: np.isclose(d / n, (d / n)[0]), "collinear:n_d"),
    ],
)
def test_what_the_data_do_not_say_is_flagged(keep, flag: str) -> None:
    data = grid(0.002, sizes=8)
    chosen = keep(data.n, data.d)
    rows = tuple(row for row, use in zip(data.rows, chosen, strict=True) if use)
    part = observed(data.n[chosen], data.d[chosen], data.flops[chosen], data.loss[chosen], rows)
    assert flag in parametric.fit(part, Options(replicates=50)).flags


def test_refusals_are_one_sentence() -> None:
    data = grid()
    five = observed(data.n[:5], data.d[:5], data.flops[:5], data.loss[:5], data.rows[:5])
    with pytest.raises(CannotFit, match="at least 6 rows"):
        parametric.fit(five, Options())
    one_n = observed(np.full(36, 1e8), data.d, data.flops, data.loss, data.rows)
    with pytest.raises(CannotFit, match="two values of N"):
        parametric.fit(one_n, Options())
    with pytest.raises(CannotFit, match="row r0 is not"):
        observed(data.n, data.d, data.flops, np.where(data.n == data.n[0], -1.0, data.loss), data.rows)
    with pytest.raises(CannotFit, match="5 values for 36 rows"):
        observed(data.n[:5], data.d, data.flops, data.loss, data.rows)
    with pytest.raises(CannotFit, match="delta above 0"):
        Options(delta=0)


def test_seeded() -> None:
    a, b, c = (parametric.fit(grid(0.01), Options(replicates=50, seed=seed)) for seed in (1, 1, 2))
    assert a.intervals == b.intervals != c.intervals


@pytest.mark.skipif(not SHARED.exists(), reason="the public tables are not beside this checkout")
def test_the_chinchilla_points() -> None:
    """Besiroglu et al. 2024: Huber 1e-3, sum, without the five highest losses."""
    rows = np.genfromtxt(SHARED / "chinchilla_besiroglu" / "runs.csv", delimiter=",", names=True)[5:]
    n, flops = rows["model_params"], rows["training_flop"]
    data = observed(n, flops / 6 / n, flops, rows["loss_nats"], tuple(str(int(i)) for i in rows["run_id"]))
    made = parametric.fit(data, Options(replicates=4000))
    assert made.objective <= 1.018275e-3
    assert made.starts == {"tried": 49, "agreeing": 49}
    for name, value, within in (("alpha", 0.347311, 2e-4), ("beta", 0.367172, 2e-4), ("E", 1.817218, 3e-4)):
        assert made.params[name] == pytest.approx(value, abs=within)
    assert made.params["A"] == pytest.approx(477.826, rel=2e-3)
    assert made.params["B"] == pytest.approx(2143.42, rel=4e-3)
    for name, low, high in (("alpha", 0.3168, 0.3733), ("beta", 0.3313, 0.4154), ("E", 1.7694, 1.8712)):
        width = high - low
        assert made.intervals[name] == pytest.approx((low, high), abs=0.05 * width)


@pytest.mark.skipif(not SHARED.exists(), reason="the public tables are not beside this checkout")
def test_the_cs336_runs() -> None:
    rows = np.genfromtxt(SHARED / "cs336_synthetic" / "isoflops.csv", delimiter=",", names=True)
    n, flops = rows["params"], rows["flop_budget"]
    data = observed(n, flops / 6 / n, flops, rows["loss"], tuple(map(str, range(len(n)))))
    made = parametric.fit(data, Options(replicates=0))
    for name, value, within in (("alpha", 0.34, 1e-5), ("beta", 0.36, 1e-5), ("E", 2.69, 1e-5)):
        assert made.params[name] == pytest.approx(value, abs=within)
    assert made.params["A"] == pytest.approx(1606.4, rel=1e-4)
    assert made.params["B"] == pytest.approx(3210.7, rel=1e-4)
