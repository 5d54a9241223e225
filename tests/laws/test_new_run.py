"""The interval of a run holds the runs that come afterwards, and says what it is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.calibration import calibrate, demo_seeds, synthetic, written_down
from sweepctl.fitting.fit import fit_and_test
from sweepctl.laws import parametric
from sweepctl.laws.fit import Answer, Fit, HeldOutRow, Parts, Prediction, Target
from sweepctl.laws.holdout import HoldOut, hold_out
from sweepctl.laws.observations import Observations
from sweepctl.laws.registry import LAWS
from sweepctl.laws.shared.new_run import record_scale
from sweepctl.report.record import made_of, record_note

LAW = LAWS["parametric"]
BARE = parametric.Options(replicates=0)
TRUE = {"E": 1.5, "A": 60.0, "B": 400.0, "alpha": 0.4, "beta": 0.4}


def ladder(trunk: float, sizes: int = 5, seed: int = 0, named: bool = True, **changed: Any) -> Observations:
    """Trunks of six budgets, whose losses are off the law by one share each, and runs by .1 %."""
    draw = np.random.default_rng(seed)
    n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e5, 1e8, sizes), np.geomspace(1e6, 1e9, 6)))
    rung = np.unique(n, return_inverse=True)[1]
    off = trunk * draw.standard_normal(sizes)[rung] + 0.001 * draw.standard_normal(n.size)
    loss = parametric.loss({**TRUE, **changed}, n, d) * np.exp(off)
    return Observations.of(n=n, d=d, loss=loss, **({"trunk": rung} if named else {}))


def at(fit: Fit, n: float, d: float) -> Prediction:
    loss = LAW.predict(fit, Target({"n": n, "d": d}))["loss"]
    assert isinstance(loss, Prediction) and loss.parts is not None
    return loss


def test_the_recorded_sweeps_lie_inside_as_often_as_said() -> None:
    """Ten sweeps of the demo, each under another seed: of 40 losses predicted from the smaller rungs 29 lay
    inside the interval that took rows for independent and the form for true."""
    cases = [*demo_seeds(LAW, "first demo"), *demo_seeds(LAWS["overtraining"], "first demo")]
    largest, one_less, overtraining = calibrate(iter(cases), 0).values()
    assert (written_down().inside.sum(), len(written_down().inside)) == (29, 40)
    assert len(largest.inside) == 40 and len(one_less.inside) == 30
    assert largest.inside.sum() >= 37 and one_less.inside.sum() >= 27 and overtraining.inside.sum() >= 35
    assert largest.record()["width_over_needed"] < 1.5
    now = next(iter(calibrate(demo_seeds(), 0).values()))
    assert len(now.inside) == 40 and now.inside.sum() >= 37


def test_truths_with_and_without_effects_lie_inside() -> None:
    inside = {table: coverage.inside for table, coverage in calibrate(synthetic(4), 0).items()}
    assert len(inside) == 4 and np.mean(np.concatenate(list(inside.values()))) >= 0.9, inside


def test_parts_add_up_and_the_misfit_grows_with_the_distance() -> None:
    fit = LAW.fit(ladder(0.01), BARE)
    inside, next_size, far = (at(fit, n, 3e7) for n in (1e6, 3e8, 1e10))
    for loss in (inside, next_size, far):
        low, high = loss.run_interval
        assert loss.parts is not None and np.log(high / loss.value) == pytest.approx(
            loss.parts.half, rel=1e-6
        )
        assert low < loss.value < high
    halves = [loss.parts.beyond for loss in (inside, next_size, far) if loss.parts]
    assert halves[0] < halves[1] < halves[2]
    assert next_size.parts and next_size.parts.trunk > 3 * next_size.parts.run


def test_without_trunks_there_is_no_part_of_theirs() -> None:
    parts = at(LAW.fit(ladder(0.0, named=False), BARE), 3e8, 1e8).parts
    assert parts is not None and parts.trunk == 0
    shared = at(LAW.fit(ladder(0.02), BARE), 3e8, 1e8).parts
    alone = at(LAW.fit(ladder(0.02, named=False), BARE), 3e8, 1e8).parts
    assert shared and alone and shared.half > 1.2 * alone.half


def test_a_run_that_has_rows_of_its_own_is_a_trunk() -> None:
    data = ladder(0.02)
    runs = Observations.of(n=data.n, d=data.d, loss=data.loss, run=data.label("trunk"))
    assert runs.shared_trunks() == data.label("trunk")
    assert at(LAW.fit(runs, BARE), 3e8, 1e8).run_interval == at(LAW.fit(data, BARE), 3e8, 1e8).run_interval
    apart = Observations.of(n=data.n, d=data.d, loss=data.loss, run=range(len(data)))
    assert apart.shared_trunks() == ()


def held(error: float, below: float) -> HeldOutRow:
    return HeldOutRow("n", below, "0", {}, float(np.exp(error)), 1.0, (0.9, 1.1), 0.01)


def test_errors_on_larger_sizes_scale_the_interval() -> None:
    none, hit, missed = record_scale([]), record_scale([held(0.0, 1)]), record_scale([held(0.05, 1)])
    assert hit < none < missed
    assert record_scale([held(0.05, 1)] * 9) == pytest.approx(missed)  # rows of one size are one error
    assert record_scale([held(0.05, 1), held(0.05, 2)]) > missed


def broken() -> Observations:
    """A ladder whose larger sizes are trained badly: no law of the smaller ones says so."""
    data = ladder(0.0005, sizes=9)
    loss = data.loss * np.where(data.n > 1e7, 1 + 0.1 * np.log(data.n / 1e7), 1.0)
    return Observations.of(n=data.n, d=data.d, loss=loss, trunk=data.label("trunk"))


def test_a_bad_record_is_flagged_and_widens() -> None:
    good, bad = (fit_and_test(LAW, data, BARE) for data in (ladder(0.0005, sizes=9), broken()))
    assert len(good.backtests) == 4 * 6 and not any(flag.startswith("bad_record") for flag in good.flags)
    inside, judged = bad.record_of_backtests()
    assert judged == 24 and f"bad_record:{inside}_of_24" in bad.flags
    assert record_note(good) is None and f"of 24 rows of larger sizes {inside} inside" in str(
        record_note(bad)
    )
    parts = at(bad, 3e8, 1e9).parts
    bad.backtests = []
    bare = at(bad, 3e8, 1e9).parts
    assert parts and bare and parts.half > 1.5 * bare.half


def test_what_is_held_out_has_an_interval() -> None:
    rows = hold_out(LAW, ladder(0.005, sizes=6), BARE, HoldOut("n", 1, rolling=True))
    assert {row.fitted_up_to for row in rows} >= set(np.geomspace(1e5, 1e8, 6)[2:5])
    judged = [row for row in rows if row.fitted_up_to > 1e6]
    assert all(row.inside is not None and row.expected > 0 for row in judged)
    assert sum(bool(row.inside) for row in judged) >= 0.8 * len(judged)


def test_parts_and_records_are_read_as_they_were_written() -> None:
    fit = fit_and_test(LAW, ladder(0.005), BARE)
    answer = Answer(Target({"n": 1e9, "d": 1e9}), {"loss": at(fit, 1e9, 1e9)})
    assert Answer.read(answer.record()) == Answer(answer.at, answer.estimates)
    assert [HeldOutRow.read(row.record()) for row in fit.backtests] == fit.backtests


def test_a_fit_of_an_early_version_predicts_without_trunks_and_record() -> None:
    record = fit_and_test(LAW, ladder(0.005), parametric.Options(replicates=20)).record()
    for gone in ("backtests", "predictions", "held_out"):
        del record[gone]
    del record["details"]["trunks"]
    early = Fit.read(record)
    loss = at(early, 3e8, 1e9)
    assert loss.parts is not None and loss.parts.trunk == 0 and early.backtests == []
    del early.details["points"]
    bare = LAW.fit(ladder(0.005), BARE) and parametric.predict(early, 3e8, 1e9)
    assert bare.parts is None and bare.run_interval[0] < bare.value < bare.run_interval[1]


def test_every_law_that_predicts_a_loss_says_what_its_interval_is_made_of() -> None:
    n, ratio = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 7), np.geomspace(5, 80, 7)))
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(n.size))
    loss = parametric.loss({**TRUE, "A": 400.0}, n, n * ratio) * noise
    data = Observations.of(n=n, d=n * ratio, flops=6 * n * n * ratio, loss=loss)
    targets = {"parametric": {"n": 4e9, "d": 4e10}, "overtraining": {"n": 4e9, "d": 4e10},
               "compute": {"flops": 1e22}, "isoflop": {"flops": 1e22}}  # fmt: skip
    for name, target in targets.items():
        law = LAWS[name]
        options = law.options(replicates=20)
        if name == "isoflop":
            c = np.repeat(np.geomspace(1e18, 1e20, 6), 7)
            size = np.sqrt(c / 120) * np.tile(np.geomspace(0.3, 3, 7), 6)
            of_size = parametric.loss(TRUE, size, c / 6 / size)
            rows = Observations.of(n=size, d=c / 6 / size, flops=c, loss=of_size * noise[:42])
        else:
            rows = data
        predicted = law.predict(fit_and_test(law, rows, options), Target(target))["loss"]
        assert isinstance(predicted, Prediction) and predicted.parts is not None, name
        low, high = predicted.run_interval
        assert low <= predicted.interval[0] and predicted.interval[1] <= high and low < predicted.value < high


def test_only_what_the_law_stands_on_is_held_out() -> None:
    """Of several sizes at one budget the best is on L(C): the others lie above, which is no error."""
    flops = np.repeat(np.geomspace(1e18, 1e21, 8), 5)
    n = np.sqrt(flops / 120) * np.tile(np.geomspace(0.2, 5, 5), 8)
    loss = parametric.loss(TRUE, n, flops / 6 / n)
    data = Observations.of(n=n, d=flops / 6 / n, flops=flops, loss=loss)
    compute = LAWS["compute"]
    rows = hold_out(compute, data, compute.options(replicates=0), HoldOut("flops", 1, rolling=True))
    assert len(rows) == len({row.fitted_up_to for row in rows}) <= 7
    judged = [row.inside for row in rows if row.inside is not None]
    assert judged and all(judged) and max(abs(row.error) for row in rows) < 0.01


def test_of_two_sizes_nothing_says_how_sizes_scatter() -> None:
    rows = hold_out(LAW, ladder(0.005, sizes=4), BARE, HoldOut("n", 1, rolling=True))
    assert {row.fitted_up_to for row in rows if row.inside is None} <= {1e5, 1e6}
    assert all(row.inside is not None for row in rows if row.fitted_up_to > 2e6)


def test_parts_in_words() -> None:
    assert made_of(Parts(0.006, 0.003, 0.0, 0.012)) == "parameters 0.6 %, run 0.3 %, beyond the runs 1.2 %"
    of_cells = made_of(Parts(0.2, 0.75, 0.19, 0.1), "hyperparameters")
    assert of_cells == "parameters 20 %, optimum 75 %, cell 19 %, beyond the cells 10 %"
