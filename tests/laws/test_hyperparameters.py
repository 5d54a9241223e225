"""Learning rate and batch: exact where the optimum is, honest about scatter, right on the public runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepctl.fitting.observations import TableReading, observations
from sweepctl.fitting.request import read_targets
from sweepctl.laws import hyperparameters as law
from sweepctl.laws.fit import Fit, Prediction, Target
from sweepctl.laws.hyperparameters import LAW, Options
from sweepctl.laws.hyperparameters.gaps import PUBLISHED, gap
from sweepctl.laws.hyperparameters.optima import vertex
from sweepctl.laws.observations import CannotFit, Observations
from sweepctl.laws.shared.cells import cells_of
from sweepctl.report.laws import draw
from tests.laws.common import SHARED, needs

TRUE = {"lr_factor": 1.8, "lr_n": -0.7, "lr_d": 0.3, "batch_factor": 0.6, "batch_d": 0.57}
WIDE = {"window": 9.0}


def runs(
    seed: int = 0, noise: float = 0.0, scatter: float = 0.0, sizes: int = 3, ratios: int = 3, **change: Any
) -> Observations:
    """Grids of LR and batch around the law's optimum in every cell; the loss is a parabola in the logs, so
    that the vertex is the law. `scatter` moves the optimum of every cell."""
    g, rows = np.random.default_rng(seed), []
    for n in np.geomspace(5e7, 1e9, sizes):
        for d in n * np.geomspace(10, 300, ratios):
            lr, batch = 1.8 * n**-0.7 * d**0.3, 0.6 * d**0.57
            grid_lr = 2.0 ** (np.round(2 * np.log2(lr)) / 2 + np.arange(-5, 6) / 2)
            grid_batch = 2.0 ** (np.round(np.log2(batch)) + np.arange(-4, 5))
            at_lr, at_batch = (x.ravel() for x in np.meshgrid(grid_lr, grid_batch))
            off_lr, off_batch = scatter * g.standard_normal(2)
            bowl = (
                1 + 4e-3 * (np.log(at_lr / lr) - off_lr) ** 2
                + 2.5e-3 * (np.log(at_batch / batch) - off_batch) ** 2
            )  # fmt: skip
            loss = (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * (bowl + noise * g.standard_normal(bowl.size))
            rows += [(n, d, *row) for row in zip(at_lr, at_batch, loss, strict=True)]
    n, d, lr, batch, loss = np.array(rows).T
    return Observations.of(
        **{"n": n, "d": d, "flops": 6 * n * d, "lr": lr, "batch": batch, "loss": loss, **change}
    )


def without(data: Observations, *roles: str, rows: Any = None) -> Observations:
    rows = np.arange(len(data)) if rows is None else np.flatnonzero(rows)
    return Observations.of(**{k: v[rows] for k, v in data.columns.items() if k not in roles})


@pytest.mark.parametrize("slices", ["best", "each"])
def test_parabolas_give_the_exact_law(slices: str) -> None:
    fit = law.fit(runs(), Options(optimum="quadratic", slices=slices, replicates=0, **WIDE))
    for name, value in TRUE.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-6)
    assert fit.flags == [] and fit.rows_excluded == [] and fit.derived["cells"] == 9
    assert fit.derived["lr_r2"] == pytest.approx(1) and fit.intervals == {}


def test_near_optimal_runs_are_those_below_the_threshold() -> None:
    """Against the protocol written out with a table and a plain solver."""
    data = runs(3, noise=5e-4)
    frame = pd.DataFrame(dict(data.columns))
    over = frame.loss / frame.groupby(["n", "d"]).loss.transform("min") - 1
    near = frame[over < 0.0025]
    design = np.stack([np.ones(len(near)), np.log(near.n), np.log(near.d)], axis=1)
    expected = np.linalg.lstsq(design, np.log(near.lr), rcond=None)[0]
    fit = law.fit(data, Options(replicates=0))
    assert [fit.params["lr_n"], fit.params["lr_d"]] == pytest.approx(expected[1:], abs=1e-9)
    assert fit.rows_used == [str(i) for i in near.index]
    assert {row.reason for row in fit.rows_excluded} == {
        "its loss is not within 0.25% of the least of its cell"
    }
    evenly = law.fit(data, Options(weighting="cells", replicates=0))
    assert abs(evenly.params["lr_n"] - expected[1]) > 1e-4
    best = law.fit(data, Options(optimum="argmin", replicates=0))
    assert len(best.rows_used) == 9 and len(
        law.fit(data, Options(threshold=0.9, replicates=0)).rows_used
    ) == len(data)


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-6, 1e6), st.floats(1e-3, 1e3), st.floats(0.1, 10))
def test_units_move_only_factors(loss: float, tokens: float, batch: float, rate: float) -> None:
    data = runs(1, noise=5e-4)
    scaled = Observations.of(
        n=data.n, d=data.d * tokens, lr=data["lr"] * rate, batch=data["batch"] * batch, loss=data.loss * loss
    )
    a, b = (law.fit(table, Options(replicates=0)).params for table in (data, scaled))
    for name in ("lr_n", "lr_d", "batch_d"):
        assert b[name] == pytest.approx(a[name], abs=1e-8)
    assert b["lr_factor"] == pytest.approx(a["lr_factor"] * rate * tokens ** -a["lr_d"], rel=1e-6)
    assert b["batch_factor"] == pytest.approx(a["batch_factor"] * batch * tokens ** -a["batch_d"], rel=1e-6)


@pytest.mark.parametrize(
    ("optimum", "noise", "scatter"), [("near", 1e-3, 0.0), ("near", 5e-4, 0.2), ("quadratic", 5e-4, 0.2)]
)
def test_intervals_cover(optimum: Any, noise: float, scatter: float) -> None:
    """Of 95 % intervals over cells, 90 to 98 % hold the truth, pooled over the parameters."""
    held, trials = 0, 60
    for seed in range(trials):
        fit = law.fit(runs(seed, noise, scatter, 4, 4), Options(optimum=optimum, replicates=250, seed=seed))
        held += sum(low <= TRUE[name] <= high for name, (low, high) in fit.intervals.items() if name in TRUE)
    assert 0.90 <= held / (trials * len(TRUE)) <= 0.98


def test_intervals_over_rows_take_runs_of_a_cell_for_independent() -> None:
    data = runs(2, 5e-4, 0.3, 4, 4)
    width = {}
    for draws in ("rows", "cells"):
        fit = law.fit(data, Options(resample=draws, replicates=300))
        width[draws] = np.ptp(fit.intervals["lr_n"])
        assert fit.protocol["intervals"].startswith(f"95 % percentiles over {draws}")
    assert width["cells"] > 1.5 * width["rows"]
    a, b, c = (law.fit(data, Options(replicates=50, seed=seed)).intervals for seed in (1, 1, 2))
    assert a == b != c


def test_forms() -> None:
    data = runs()
    quadratic = {"optimum": "quadratic", "replicates": 0, **WIDE}
    fit = law.fit(data, Options(form="deepseek", **quadratic))
    assert set(fit.params) == {"lr_factor", "lr_flops", "batch_factor", "batch_flops"}
    fit = law.fit(data, Options(form="free", batch_over=("n", "d"), **quadratic))
    assert set(fit.params) == {"batch_factor", "batch_n", "batch_d"}
    assert fit.params["batch_n"] == pytest.approx(0, abs=1e-7)
    fit = law.fit(data, Options(lr_over=("n", "batch"), **quadratic))  # D^.3 is B^(.3/.57) here
    assert fit.details["over"] == {"lr": ["n", "batch"], "batch": ["d"]}
    predicted = law.predict(fit, Target({"n": 1e9, "d": 1e11}))
    assert predicted["batch"].value == pytest.approx(0.6 * 1e11**0.57, rel=1e-6)
    assert set(law.predict(fit, Target({"n": 1e9, "d": 1e11, "batch": 1e6}))) == {"lr"}


def test_predictions() -> None:
    fit = law.fit(runs(0, 5e-4, 0.1), Options(replicates=200))
    predicted = law.predict(fit, Target({"n": 2e9, "d": 4e11}))
    assert list(predicted) == ["lr", "batch"]
    for estimate in predicted.values():
        assert estimate.interval[0] < estimate.value < estimate.interval[1]
        assert isinstance(estimate, Prediction) and estimate.parts is not None and estimate.parts.trunk > 0
        low, high = estimate.run_interval  # of another cell's optimum
        assert low < estimate.interval[0] and estimate.interval[1] < high
    assert predicted["lr"].value == pytest.approx(1.8 * 2e9**-0.7 * 4e11**0.3, rel=0.5)
    assert list(law.predict(fit, Target({"d": 4e11}))) == ["batch"]
    with pytest.raises(CannotFit, match="predicts from n,d or d, not from flops"):
        law.predict(fit, Target({"flops": 1e21}))
    by_compute = law.fit(runs(), Options(form="deepseek", replicates=0))
    at_nd, at_c = (law.predict(by_compute, t) for t in ({"n": 1e9, "d": 2e10}, {"flops": 1.2e20}))
    assert at_nd == at_c and read_targets(LAW, ("n=1e9,d=2e10",))
    by_compute.accounting = {"flops": "counted"}
    with pytest.raises(CannotFit, match="not from n,d"):
        law.predict(by_compute, Target({"n": 1e9, "d": 2e10}))


def test_what_was_not_swept_is_not_fitted() -> None:
    data = runs()
    one_batch = np.zeros(len(data), dtype=bool)
    for n, d in set(zip(data.n, data.d, strict=True)):
        cell = (data.n == n) & (data.d == d)
        one_batch |= cell & (data["batch"] == np.median(data["batch"][cell]))
    fit = law.fit(without(data, rows=one_batch), Options(optimum="quadratic", replicates=0, **WIDE))
    assert (
        fit.flags == ["not_fitted:batch"] and "two values of the batch" in fit.details["not_fitted"]["batch"]
    )
    assert fit.params["lr_n"] == pytest.approx(-0.7, abs=1e-6) and set(
        law.predict(fit, Target({"n": 1e9, "d": 1e11}))
    ) == {"lr"}
    only_batch = law.fit(without(data, "lr"), Options(replicates=0))
    assert set(only_batch.params) == {"batch_factor", "batch_d"}
    single = law.fit(without(data, rows=one_batch | (data.n > 1e8)), Options(replicates=0))
    assert not single.flags and len(single.details["cells"]) == 9
    unswept = without(data, rows=np.isin(np.arange(len(data)), [0]) | (data.n > 1e8))
    reasons = {row.reason for row in law.fit(unswept, Options(replicates=0)).rows_excluded}
    assert "its cell was trained at one learning rate and one batch" in reasons


def test_minima_at_an_edge() -> None:
    data = runs()
    first = (data.n == data.n.min()) & (data.d == data.d.min())
    best = data["lr"][first][np.argmin(data.loss[first])]
    cut = without(data, rows=~first | (data["lr"] >= best))
    near, quadratic = (law.fit(cut, Options(optimum=o, replicates=0, **WIDE)) for o in ("near", "quadratic"))
    assert near.flags == quadratic.flags == ["edge_minimum:5e+07/5e+08"]
    assert near.details["cells"][0]["edge"] == ["lr"] and near.details["cells"][0]["optima"]["lr"] > 0
    assert quadratic.details["cells"][0]["optima"] == {"lr": 0, "batch": 1}
    assert quadratic.params["lr_n"] == pytest.approx(-0.7, abs=1e-6)
    concave = data.loss.copy()
    inner = first & (data["lr"] != data["lr"][first].min()) & (data["lr"] != data["lr"][first].max())
    concave[inner] = 2 * data.loss.max() - concave[inner]
    concave[np.flatnonzero(inner)[15]] = data.loss[first].min() * 0.99
    bent = Observations.of(**{**data.columns, "loss": concave})
    assert "no_minimum:5e+07/5e+08" in law.fit(bent, Options(optimum="quadratic", replicates=0, **WIDE)).flags


def test_designs_that_do_not_tell_predictors_apart() -> None:
    data = runs()
    diagonal = np.isclose(data.d / data.n, 10)
    fit = law.fit(without(data, rows=diagonal), Options(replicates=20))
    assert {"collinear:n_d", "not_identified:lr_n", "not_identified:lr_d", "few_cells:lr"} <= set(fit.flags)
    assert "lr_n" not in fit.intervals and "batch_d" in fit.intervals
    at = law.predict(fit, Target({"n": 2e9, "d": 2e10}))["lr"]
    assert at.value == pytest.approx(1.8 * 2e9**-0.7 * 2e10**0.3, rel=0.3) and at.interval == (
        at.value,
        at.value,
    )
    nearly = Observations.of(
        **{**without(data, rows=data.n > 0).columns, "d": 20 * data.n * (data.d / data.n / 55) ** 0.1}
    )
    assert "collinear:n_d" in law.fit(nearly, Options(replicates=0)).flags
    one_n = law.fit(without(data, rows=data.n == data.n.min()), Options(replicates=0))
    assert {"not_identified:lr_n", "not_identified:lr_factor"} <= set(one_n.flags) and one_n.params[
        "lr_n"
    ] == 0


def test_cells() -> None:
    """Tokens rounded to whole batches stay one cell; groups are told apart."""
    data = runs()
    rounded = Observations.of(**{**data.columns, "d": np.ceil(data.d / data["batch"]) * data["batch"]})
    assert law.fit(rounded, Options(replicates=0)).derived["cells"] == 9
    assert law.fit(rounded, Options(replicates=0, tolerance=0.0)).derived["cells"] > 9
    twice = Observations.of(
        **{k: np.tile(v, 2) for k, v in data.columns.items()}, group=np.repeat(["a", "b"], len(data))
    )
    fit = law.fit(twice, Options(replicates=0))
    assert fit.derived["cells"] == 18 and fit.details["cells"][0]["cell"] == "a/5e+07/5e+08"


def test_refusals_are_one_sentence() -> None:
    data = runs()
    with pytest.raises(CannotFit, match="name it with --lr or --batch"):
        law.fit(without(data, "lr", "batch"), Options())
    with pytest.raises(CannotFit, match=r"losses are all 3"):
        law.fit(Observations.of(**{**data.columns, "loss": np.full(len(data), 3.0)}), Options())
    with pytest.raises(CannotFit, match=r"A column of parameters N is missing: name it with --n"):
        law.fit(without(data, "n"), Options())
    with pytest.raises(CannotFit, match=r"over n, d needs optima in 3 cells; 1 of 1 cells have one"):
        law.fit(without(data, "batch", rows=(data.n == data.n[0]) & (data.d == data.d[0])), Options())
    with pytest.raises(CannotFit, match=r"trained at two values of the learning rate"):
        law.fit(without(data, rows=np.arange(len(data)) % 99 == 0), Options())
    for bad in ({"threshold": 0}, {"tolerance": 1}, {"form": "free"}, {"window": 0}, {"replicates": -1}):
        with pytest.raises(CannotFit):
            Options(**bad)
    with pytest.raises(CannotFit, match="no runs"):
        law.fit(without(data, rows=data.n < 0), Options())


def test_a_vertex_needs_a_bowl_inside_what_was_tried() -> None:
    x = np.geomspace(1e-4, 1e-2, 5)
    assert vertex(x, 3 + np.log(x / 1e-3) ** 2, 99.0) == pytest.approx((1e-3, 3.0))
    assert vertex(x, 3 + np.log(x / 1e-1) ** 2, 99.0) is None
    assert vertex(x, 3 - 0.1 * np.log(x / 1e-3) ** 2, 99.0) is None
    assert vertex(x[:2], np.array([3.0, 3.1]), 99.0) is None


@given(st.floats(-2, 2), st.integers(0, 2**32 - 1))
def test_a_straight_line_is_no_bowl_whatever_rounding_says(slope: float, seed: int) -> None:
    x = np.exp(np.sort(np.random.default_rng(seed).uniform(-9, -4, 6)))
    assert vertex(x, 20 + slope * np.log(x), 99.0) is None


def test_gaps_are_interpolated_losses() -> None:
    """A loss that is flat in the logs is its own interpolation."""
    lr, batch = (x.ravel() for x in np.meshgrid(2.0 ** np.arange(-12, -6), 2.0 ** np.arange(15, 20)))
    data = Observations.of(
        lr=lr, batch=batch, loss=2 + 0.1 * np.log2(lr / 2**-12) + 0.2 * np.log2(batch / 2**15)
    )
    (cell,) = cells_of(data, (), 0.0)
    at = {"lr": np.array([2**-10.5, 2**-9, 1.0]), "batch": np.array([2**16.25, 2**15, 2**16])}
    assert gap(data, cell, at)[:2] == pytest.approx([(0.15 + 0.25) / 2, 0.3 / 2])
    assert np.isnan(gap(data, cell, at)[2])
    line = data.keep(data["batch"] == 2**15, "")
    (cell,) = cells_of(line, (), 0.0)
    assert gap(line, cell, {"lr": at["lr"][:2]}) == pytest.approx([0.15 / 2, 0.3 / 2])
    diagonal = Observations.of(lr=lr[:5], batch=lr[:5] * 1e9, loss=np.arange(1.0, 6.0))
    (cell,) = cells_of(diagonal, (), 0.0)
    assert np.isnan(gap(diagonal, cell, {"lr": lr[:1], "batch": lr[:1] * 1e9})).all()


def test_the_law_and_a_published_one_are_judged(tmp_path: Path) -> None:
    fit = law.fit(runs(0, 3e-4), Options(judge="stepfun", replicates=50))
    assert 0 <= fit.derived["gap_mean"] <= fit.derived["gap_max"] < 0.5
    assert fit.derived["gap_outside"] == 0 and "judged_gap_mean" in fit.intervals
    assert 0 <= fit.derived["judged_gap_mean"] <= fit.derived["judged_gap_max"] < 0.5
    draw(tmp_path / "a.png", [fit])
    assert (tmp_path / "a.png").stat().st_size > 10_000
    factor, powers = PUBLISHED["deepseek"]["batch"]
    assert factor * 1e20 ** powers["flops"] == pytest.approx(1.02e6, rel=0.01)


COLUMNS = {
    "loss": "smooth_loss_nats", "lr": "peak_lr", "batch": "batch_seqs * 2048", "n": "params_non_embedding",
    "d": "train_tokens",
    "flops": "6 * (4 * hidden_size + 3 * ffn_hidden + 2 * 2048) * num_layers * hidden_size * train_tokens",
}  # fmt: skip


@functools.cache
def step_law(loss: str = "smooth_loss_nats") -> Observations:
    frame = pd.read_csv(SHARED / "steplaw" / "dense_runs.csv")
    return observations(frame, LAW, TableReading({**COLUMNS, "loss": loss}))


def on_step_law(**options: Any) -> Fit:
    return law.fit(step_law(), Options(**{"replicates": 0, **options}))


@needs("steplaw/dense_runs.csv")
def test_the_step_law_runs() -> None:
    """Li et al. 2025, dense runs: what their protocol gives on the runs they released."""
    fit = on_step_law(judge="stepfun", replicates=1000, resample="rows")
    assert len(fit.rows_used) == 129 and fit.derived["cells"] == 17 and fit.flags == []
    assert fit.params["lr_n"] == pytest.approx(-0.76623, abs=1e-4)
    assert fit.params["lr_d"] == pytest.approx(0.19701, abs=1e-4)
    assert fit.params["batch_d"] == pytest.approx(0.61253, abs=1e-4)
    assert fit.params["lr_factor"] == pytest.approx(77.69, rel=1e-3)
    assert fit.params["batch_factor"] == pytest.approx(0.20852, rel=1e-3)
    for name, spread in (("lr_n", 0.0525), ("lr_d", 0.0337), ("batch_d", 0.040)):
        assert np.std(fit.samples[name]) == pytest.approx(spread, rel=0.1)
    assert fit.derived["judged_gap_mean"] == pytest.approx(0.126, abs=0.005)
    assert fit.derived["judged_gap_max"] == pytest.approx(0.244, abs=0.005)
    both = on_step_law(batch_over=("n", "d"))
    assert both.params["batch_n"] == pytest.approx(-0.2664, abs=1e-4)
    assert both.params["batch_d"] == pytest.approx(0.6234, abs=1e-4)


@needs("steplaw/dense_runs.csv")
@pytest.mark.parametrize(
    ("options", "lr_n", "lr_d", "batch_d"),
    [
        ({"optimum": "argmin"}, -0.824, 0.288, 0.498),
        ({"threshold": 0.001}, -0.755, 0.205, 0.668),
        ({"threshold": 0.005}, -0.712, 0.173, 0.496),
    ],
)
def test_the_step_law_runs_by_threshold(options: Any, lr_n: float, lr_d: float, batch_d: float) -> None:
    params = on_step_law(**options).params
    assert [params[k] for k in ("lr_n", "lr_d", "batch_d")] == pytest.approx([lr_n, lr_d, batch_d], abs=1e-3)


@needs("steplaw/dense_runs.csv")
def test_the_step_law_runs_by_compute() -> None:
    """DeepSeek's form, C counted by their FLOPs a token."""
    fit = on_step_law(form="deepseek")
    assert fit.params["lr_factor"] == pytest.approx(0.07253, rel=2e-3)
    assert fit.params["lr_flops"] == pytest.approx(-0.0750, abs=1e-4)
    assert fit.params["batch_factor"] == pytest.approx(0.02121, rel=2e-3)
    assert fit.params["batch_flops"] == pytest.approx(0.3723, abs=1e-4)
    assert fit.derived["lr_r2"] == pytest.approx(0.02, abs=0.01)
    assert fit.derived["batch_r2"] == pytest.approx(0.37, abs=0.01)
    data = step_law()
    ratio = data.d / data.n
    part = law.fit(data.keep((ratio > 15) & (ratio < 60), "-"), Options(form="deepseek", replicates=0))
    assert len(part.rows_used) == 64
    assert part.params["lr_flops"] == pytest.approx(-0.2026, abs=1e-4)
    assert part.params["batch_flops"] == pytest.approx(0.2589, abs=1e-4)
    assert part.params["lr_factor"] == pytest.approx(17.49, rel=1e-3)
    assert part.params["batch_factor"] == pytest.approx(2.817, rel=1e-3)


@needs("steplaw/dense_runs.csv")
def test_the_unsmoothed_loss_selects_other_runs() -> None:
    fit = law.fit(step_law("final_loss_nats"), Options(replicates=0))
    assert len(fit.rows_used) == 71
    assert fit.params["batch_d"] == pytest.approx(0.72, abs=5e-3)
