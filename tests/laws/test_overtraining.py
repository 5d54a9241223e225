"""The law of over-training and the error that follows from its loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sweepctl.laws import overtraining
from sweepctl.laws.law import Observations
from sweepctl.laws.overtraining import Options

C4 = {"E": 1.51, "a": 141.0, "b": 190.0, "eta": 0.121, "epsilon": 0.850, "k": 2.08, "gamma": 0.756}
"""As Gadre et al. print them for models trained on C4 (arXiv 2403.08540, tables of the appendix)."""
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
    made = overtraining.fit(runs(places), Options(replicates=20, **changed))
    for name, value in C4.items():
        assert made.params[name] == pytest.approx(value, rel=2e-4), name
    assert made.objective < 1e-15
    best = (190 / 141) ** (1 / 0.242)
    assert made.derived["m_best"] == pytest.approx(best, rel=1e-3)
    at = overtraining.predict(made, {"n": 6.9e9, "d": 1.38e11})
    truth = overtraining.loss(C4, 6 * 6.9e9 * 1.38e11, 20)
    assert at["loss"].value == pytest.approx(truth, rel=1e-6)
    assert at["error"].value == pytest.approx(overtraining.error(C4, truth), rel=1e-5)
    assert made.flags == (["one_degree_of_freedom"] if places is FIVE else [])


def test_targets_name_the_same_run_in_many_ways() -> None:
    made = overtraining.fit(runs(), Options(replicates=10))
    c, n, d, m = 6 * 1e9 * 8e10, 1e9, 8e10, 80.0
    ways = (
        {"n": n, "d": d}, {"n": n, "tokens_per_parameter": m}, {"flops": c, "tokens_per_parameter": m},
        {"flops": c, "d": d}, {"flops": c, "n": n},
    )  # fmt: skip
    values = [overtraining.predict(made, way)["loss"] for way in ways]
    for one in values[1:]:
        assert one.value == pytest.approx(values[0].value, rel=1e-12)
        assert one.interval == pytest.approx(values[0].interval, rel=1e-9)
    best = overtraining.predict(made, {"flops": c})
    assert best["loss"].value < min(
        overtraining.predict(made, {"flops": c, "tokens_per_parameter": m})["loss"].value
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
        made = overtraining.fit(runs(GRID, 0.004, seed), Options(replicates=200, seed=seed))
        for name in C4:
            low, high = made.intervals[name]
            held.setdefault("parameters", []).append(low <= C4[name] <= high)
        at = overtraining.predict(made, {"n": n, "d": n * m})
        draw = np.random.default_rng(1000 + seed)
        loss = truth * np.exp(0.004 * draw.standard_normal())
        error = overtraining.error(C4, loss) + 0.004 * draw.standard_normal()
        low, high = at["loss"].interval
        held.setdefault("loss", []).append(low <= truth <= high)
        for name, value in (("loss", loss), ("error", error)):
            low, high = at[name].run_interval  # type: ignore[attr-defined]
            held.setdefault(f"{name} of a run", []).append(low <= value <= high)
    for name, inside in held.items():
        assert 0.90 <= np.mean(inside) <= 0.98, (name, np.mean(inside))
