"""Task loss by size or compute, accuracy by a sigmoid, and both chained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweepctl.collect.observations import Reading, observations
from sweepctl.laws import downstream, first_step, sigmoid
from sweepctl.laws.downstream import Options
from sweepctl.laws.law import CannotFit, Observations
from tests.laws.common import SHARED

STEPS: dict[Any, dict[str, float]] = {
    "nd": {"E": 0.5, "A": 15.0, "alpha": 0.2, "B": 60.0, "beta": 0.25},
    "flops": {"E": 0.5, "A": 90.0, "alpha": 0.12},
    "log_flops": {"intercept": 2.6, "slope": -0.085},
}
CURVE = {"a": -0.7, "x0": 0.8, "k": 10.0, "b": 0.97}


def ladder(
    form: Any = "nd", checkpoints: int = 1, noise: float = 0.0, seed: int = 0, **more: Any
) -> Observations:
    """Sixteen runs, four sizes at four lengths, each with checkpoints along its tokens."""
    draw = np.random.default_rng(seed)
    rows = []
    for n in (2e8, 4e8, 8e8, 1.3e9):
        for ratio in (20, 40, 100, 200):
            lift = noise * draw.standard_normal(2)
            for part in np.arange(1, checkpoints + 1) / checkpoints:
                d = n * ratio * part
                loss = float(first_step.value(form, STEPS[form], {"n": n, "d": d, "flops": 6 * n * d}))
                loss *= np.exp(lift[0])
                accuracy = float(sigmoid.value(CURVE, loss)) + lift[1]
                rows.append((f"{n:.0e}-{ratio}", n, d, loss, accuracy))
    names, n, d, loss, accuracy = zip(*rows, strict=True)
    n, d = np.array(n), np.array(d)
    return Observations.of(run=names, n=n, d=d, flops=6 * n * d, task_loss=loss, accuracy=accuracy, **more)


@pytest.mark.parametrize("form", STEPS)
def test_exact_runs_give_the_exact_chain(form: Any) -> None:
    made = downstream.fit(ladder(form), Options(step1=form, anchor=False, replicates=20))
    for name, value in (STEPS[form] | CURVE).items():
        assert made.params[name] == pytest.approx(value, rel=5e-3), name
    truth = first_step.value(form, STEPS[form], {"n": 1e10, "d": 2e12, "flops": 6 * 1e10 * 2e12})
    at = downstream.predict(made, {"n": 1e10, "d": 2e12})
    assert at["task_loss"].value == pytest.approx(truth, rel=1e-5)
    assert at["accuracy"].value == pytest.approx(sigmoid.value(CURVE, truth), abs=1e-5)
    assert made.flags == [] and made.starts["agreeing"] > 3


def test_smoothing_and_dropping_touch_only_runs_with_checkpoints() -> None:
    options = Options(average_last=2, smooth=2, drop=0.3)
    data = Observations.of(
        run=["a", "a", "a", "b"], d=[3, 1, 2, 5], task_loss=[0.6, 1.0, 0.8, 0.7], accuracy=[0.8, 0.2, 0.4, 0.5]
    )
    runs = downstream.gather(data, options)
    assert runs.names == ("a", "b") and runs.ends["d"].tolist() == [3, 5]
    assert runs.ends["task_loss"] == pytest.approx([0.7, 0.7])
    assert runs.loss == pytest.approx([0.8, 0.7, 0.7]) and runs.run.tolist() == [0, 0, 1]
    assert runs.accuracy == pytest.approx([0.4, 0.6, 0.5]) and runs.last.tolist() == [1, 2]
    whole = downstream.gather(data, Options(average_last=1, smooth=1, drop=0))
    assert whole.loss == pytest.approx([1.0, 0.8, 0.6, 0.7])
    assert downstream.trailing(np.arange(7.0), 3) == pytest.approx([0, 0.5, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("form", STEPS)
def test_intervals_cover(form: Any) -> None:
    """The law's task loss far away, and the accuracy of new runs there."""
    held: dict[str, list[bool]] = {}
    at = {"n": 4e9, "d": 4e11, "flops": 6 * 4e9 * 4e11}
    truth = float(first_step.value(form, STEPS[form], at))
    for seed in range(120):
        made = downstream.fit(
            ladder(form, noise=0.006, seed=seed), Options(step1=form, replicates=200, seed=seed, anchor=False)
        )
        found = downstream.predict(made, {"n": at["n"], "d": at["d"]})
        draw = np.random.default_rng(1000 + seed)
        loss = truth * np.exp(0.006 * draw.standard_normal())
        accuracy = float(sigmoid.value(CURVE, loss)) + 0.006 * draw.standard_normal()
        low, high = found["task_loss"].interval
        held.setdefault("task loss", []).append(low <= truth <= high)
        for name, value in (("task_loss", loss), ("accuracy", accuracy)):
            low, high = found[name].run_interval  # type: ignore[attr-defined]
            held.setdefault(f"{name} of a run", []).append(low <= value <= high)
    for name, inside in held.items():
        assert 0.90 <= np.mean(inside) <= 0.98, (name, np.mean(inside))
