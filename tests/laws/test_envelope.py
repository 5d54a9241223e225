"""Method 1."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sweepctl.cli import app
from sweepctl.laws import envelope
from sweepctl.laws.envelope import Options
from sweepctl.laws.law import CannotFit, Observations
from tests.laws.common import SHARED

ALPHA, BETA = 0.3, 0.3


def curves(
    sizes: int = 9, noise: float = 0.0, wiggle: float = 0.0, seed: int = 0, points: int = 40, ratio: float = 1.0
) -> Observations:
    """Training curves of L = 1.7 + A / N^alpha + B / D^beta, so that N*(C) is a power law of exponent beta / (alpha
    + beta): `noise` moves whole runs, `wiggle` single points; `ratio` times FLOPs."""
    draw = np.random.default_rng(seed)
    rows = []
    for i, n in enumerate(np.geomspace(1e7, 1e10, sizes)):
        shift = noise * draw.standard_normal()
        for d in np.geomspace(n / 30, 30 * n, points):
            loss = (1.7 + 300 * (n**-ALPHA + d**-BETA)) * np.exp(shift + wiggle * draw.standard_normal())
            rows.append((f"r{i}", n, d, ratio * 6 * n * d, loss))
    run, *numbers = zip(*rows, strict=True)
    return Observations.of(run=run, **dict(zip(("n", "d", "flops", "loss"), numbers, strict=True)))


def brute_hull(x: np.ndarray, y: np.ndarray) -> list[int]:
    """By definition: points that some falling line touches from below."""
    on = []
    for i in range(len(x)):
        left = [(y[i] - y[j]) / (x[i] - x[j]) for j in range(len(x)) if x[j] < x[i]]
        right = [(y[j] - y[i]) / (x[j] - x[i]) for j in range(len(x)) if x[j] > x[i]]
        lowest = all(y[i] < y[j] for j in range(len(x)) if x[j] == x[i] and j != i)
        steepest = max(left, default=-np.inf)
        if lowest and steepest < min(right, default=np.inf) and steepest < 0:
            on.append(i)
    return on


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=3, max_size=25, unique=True))
@settings(max_examples=200, deadline=None)
def test_the_hull_is_the_hull(points: list[tuple[int, int]]) -> None:
    x, y = np.array(sorted(points), dtype=float).T
    assert np.flatnonzero(envelope.lower_hull(x, y, np.ones((1, len(x)), bool))[0]).tolist() == brute_hull(x, y)


@pytest.mark.parametrize("method", [{}, {"method": "minimum"}, {"method": "minimum", "bins": 300}])
def test_the_exponents_of_the_law_come_back(method: dict) -> None:
    made = envelope.fit(curves(25), Options(edges="drop", replicates=0, **method))
    assert made.params["a"] == pytest.approx(0.5, abs=2e-3)
    assert made.params["b"] == pytest.approx(0.5, abs=2e-3)
    assert made.params["c"] == pytest.approx(-0.15, abs=1e-3)
    answer = envelope.LAW.predict(made, {"flops": 1e21})
    assert answer["n"].value == pytest.approx((1e21 / 6) ** 0.5, rel=0.05)
    assert answer["loss"].value == pytest.approx(2000 * (1e21 / 6) ** -0.15, rel=2e-2)


def test_without_runs_bins_take_the_least_loss() -> None:
    data = curves(25)
    bare = Observations.of(n=data.n, d=data.d, flops=data.flops, loss=data.loss)
    made = envelope.fit(bare, Options(method="minimum", bins=100, edges="drop", replicates=20))
    assert made.params["a"] == pytest.approx(0.5, abs=0.02)
    assert made.protocol["intervals"] == "95 % percentiles over points"
    flops = np.array([point["flops"] for point in made.details["envelope"]])
    edges = np.linspace(*np.log([data.flops.min(), data.flops.max()]), 101)
    assert np.diff(np.searchsorted(edges, np.log(flops), side="right")).min() >= 1


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0.1, 10))
@settings(max_examples=15, deadline=None)
def test_units_change_factors_alone(tokens: float, flops: float, loss: float) -> None:
    data = curves(6, wiggle=0.01, points=12)
    scaled = Observations.of(
        run=data.label("run"), n=data.n, d=data.d * tokens, flops=data.flops * flops, loss=data.loss * loss
    )
    one, two = (envelope.fit(each, Options(replicates=0)).params for each in (data, scaled))
    for name in ("a", "b", "c"):
        assert two[name] == pytest.approx(one[name], abs=1e-8)
    assert two["k_d"] == pytest.approx(one["k_d"] * tokens * flops ** -one["b"], rel=1e-6)


def test_intervals_cover() -> None:
    held = trials = 0
    for seed in range(150):
        made = envelope.fit(curves(15, noise=0.01, seed=seed), Options(replicates=200, seed=seed, edges="drop"))
        for name, true in (("a", 0.5), ("b", 0.5), ("c", -0.15)):
            low, high = made.intervals[name]
            held += low <= true <= high
            trials += 1
    assert 0.9 <= held / trials <= 0.985, held / trials
