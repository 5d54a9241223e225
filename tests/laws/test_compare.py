"""Groups compared by the same law of compute."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sweepctl.cli import app
from sweepctl.laws import compare, parametric
from sweepctl.laws.compare import Options
from sweepctl.laws.fit import Target
from sweepctl.laws.observations import CannotFit, Observations

LEVELS = {"softmax": (0.0, 20.0, 0.05), "hybrid": (0.0, 18.5, 0.0488), "linear": (0.0, 19.0, 0.048)}
"""E, a and b of L(C) = E + a C^-b, C in FLOPs."""
C = np.geomspace(1e18, 1e21, 8)


def table(noise: float = 0.0, seed: int = 0, levels: dict = LEVELS, c: np.ndarray = C) -> Observations:
    draw = np.random.default_rng(seed)
    rows = [
        (name, flops, (e + a * flops**-b) * np.exp(noise * draw.standard_normal()))
        for name, (e, a, b) in levels.items()
        for flops in c
    ]
    group, flops, loss = zip(*rows, strict=True)
    return Observations.of(group=group, flops=flops, loss=loss)


def truth(name: str, flops: float, levels: dict = LEVELS) -> tuple[float, float]:
    """The difference in loss from softmax, and how many times the FLOPs softmax needs."""
    e, a, b = levels[name]
    loss = e + a * flops**-b
    floor, factor, exponent = levels["softmax"]
    needed = ((loss - floor) / factor) ** (-1 / exponent)
    return loss - floor - factor * flops**-exponent, needed / flops


@pytest.mark.parametrize("floor", [0.0, None])
def test_known_laws_come_back(floor: float | None) -> None:
    levels = {name: (1.5 * (floor is None), a, b) for name, (_, a, b) in LEVELS.items()}
    fit = compare.fit(table(levels=levels), Options(floor=floor, replicates=0))
    for name, (e, a, b) in levels.items():
        assert fit.params[f"{name}.a"] == pytest.approx(a, rel=1e-3)
        assert fit.params[f"{name}.b"] == pytest.approx(b, rel=1e-4)
        assert fit.params.get(f"{name}.E", 0.0) == pytest.approx(e, rel=1e-4)
    assert fit.derived["flops"] == pytest.approx(1e21)
    for name in ("hybrid", "linear"):
        difference, ratio = truth(name, 1e21, levels)
        assert fit.derived[f"{name}.loss_difference"] == pytest.approx(difference, rel=1e-3, abs=1e-6)
        assert fit.derived[f"{name}.compute_ratio"] == pytest.approx(ratio, rel=1e-3)
    (shown,) = fit.predictions
    assert shown.at == Target({"flops": fit.derived["flops"]}) and shown.estimates["softmax.loss"].value > 0


def test_the_parametric_law_at_its_best_sizes() -> None:
    shapes = {"dense": (1.69, 406.4, 410.7, 0.34, 0.28), "sparse": (1.69, 330.0, 410.7, 0.34, 0.28)}
    rows = []
    for name, values in shapes.items():
        true = dict(zip(parametric.PARAMS, values, strict=True))
        for n in np.geomspace(1e7, 1e9, 5):
            tokens = n * np.array([5, 15, 50, 150])
            rows += [(name, n, d, 6 * n * d, parametric.loss(true, n, d)) for d in tokens]
    group, n, d, flops, loss = zip(*rows, strict=True)
    data = Observations.of(group=group, n=n, d=d, flops=flops, loss=loss)
    fit = compare.fit(data, Options(law="parametric", replicates=0, flops=1e20))
    best = {}
    for name, values in shapes.items():
        true = dict(zip(parametric.PARAMS, values, strict=True))
        sizes = np.geomspace(1e8, 1e10, 20_001)
        best[name] = parametric.loss(true, sizes, 1e20 / 6 / sizes).min()
    assert fit.predictions[0].estimates["dense.loss"].value == pytest.approx(best["dense"], rel=1e-5)
    assert fit.derived["sparse.loss_difference"] == pytest.approx(best["sparse"] - best["dense"], rel=1e-3)
    assert fit.derived["sparse.compute_ratio"] > 1


@pytest.mark.parametrize("floor", [0.0, None])
def test_intervals_cover(floor: float | None) -> None:
    levels, c = LEVELS, C
    if floor is None:
        levels = {name: (1.5, 1500 * a, 3 * b) for name, (_, a, b) in LEVELS.items()}
        c = np.geomspace(1e18, 1e22, 16)
    held = dict.fromkeys(("hybrid.loss_difference", "hybrid.compute_ratio", "linear.loss_difference",
                          "linear.compute_ratio", "softmax.b", "hybrid.a"), 0)  # fmt: skip
    true = {"softmax.b": levels["softmax"][2], "hybrid.a": levels["hybrid"][1]}
    trials = 120 if floor == 0 else 40
    for seed in range(trials):
        data = table(0.004 if floor == 0 else 0.001, seed, levels, c)
        fit = compare.fit(data, Options(floor=floor, replicates=150, seed=seed))
        flops = fit.derived["flops"]
        for name in ("hybrid", "linear"):
            true[f"{name}.loss_difference"], true[f"{name}.compute_ratio"] = truth(name, flops, levels)
        for name in held:
            low, high = fit.intervals[name]
            held[name] += low <= true[name] <= high
    assert 0.90 <= sum(held.values()) / (trials * len(held)) <= 0.98, {k: v / trials for k, v in held.items()}


def test_what_is_not_resolved_or_not_measured_is_flagged() -> None:
    same = {"one": LEVELS["softmax"], "two": LEVELS["softmax"]}
    assert "not_resolved:two" in compare.fit(table(0.004, 1, same), Options(replicates=200)).flags
    apart = compare.fit(table(0.001), Options(replicates=200))
    assert not [flag for flag in apart.flags if flag.startswith("not_resolved")]
    far = compare.fit(table(0.001), Options(replicates=50, flops=1e23)).flags
    assert {"extrapolated:softmax", "extrapolated:linear"} <= set(far)
    better = {"one": (0.0, 20.0, 0.05), "two": (0.0, 16.0, 0.05)}
    assert "ratio_extrapolated:two" in compare.fit(table(levels=better), Options(replicates=0)).flags


def test_a_loss_that_the_baseline_never_reaches() -> None:
    levels = {"high": (2.0, 20.0, 0.1), "low": (1.0, 20.0, 0.1)}
    fit = compare.fit(
        table(1e-3, 0, levels, np.geomspace(1e18, 1e22, 16)), Options(floor=None, replicates=50)
    )
    assert fit.derived["low.compute_ratio"] == compare.NEVER
    assert fit.intervals["low.compute_ratio"][1] == compare.NEVER
    assert "never_reached:low" in fit.flags


def test_the_least_loss_at_equal_flops_counts() -> None:
    data = table(levels={name: LEVELS[name] for name in ("softmax", "linear")})
    worse = Observations.of(
        group=data.label("group") * 2, flops=np.tile(data.flops, 2),
        loss=np.concatenate([data.loss, data.loss * 1.05]), rows=[f"r{i}" for i in range(32)],
    )  # fmt: skip
    fit = compare.fit(worse, Options(replicates=0))
    assert fit.params["softmax.a"] == pytest.approx(20, rel=1e-6) and len(fit.rows_excluded) == 16
    assert compare.fit(worse, Options(replicates=0, rows="all")).params["softmax.a"] > 20.1


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 10), st.floats(1e-6, 1e6))
def test_units_change_only_factors(loss_unit: float, flops_unit: float) -> None:
    """The exponent and the ratio of compute have no units; differences are in those of the loss."""
    data = table(0.003, 1)
    plain = compare.fit(data, Options(replicates=0))
    scaled = Observations.of(
        group=data.label("group"), flops=data.flops * flops_unit, loss=data.loss * loss_unit
    )
    rescaled = compare.fit(scaled, Options(replicates=0))
    assert rescaled.params["hybrid.b"] == pytest.approx(plain.params["hybrid.b"], rel=1e-9)
    assert rescaled.derived["hybrid.compute_ratio"] == pytest.approx(
        plain.derived["hybrid.compute_ratio"], rel=1e-6
    )
    assert rescaled.derived["hybrid.loss_difference"] == pytest.approx(
        plain.derived["hybrid.loss_difference"] * loss_unit, rel=1e-6
    )


def test_the_baseline_turns_the_sign() -> None:
    data = table(0.003, 2)
    from_softmax = compare.fit(data, Options(replicates=0)).derived
    from_hybrid = compare.fit(data, Options(replicates=0, baseline="hybrid")).derived
    assert from_hybrid["softmax.loss_difference"] == pytest.approx(-from_softmax["hybrid.loss_difference"])


def test_refusals_are_one_sentence() -> None:
    short = np.concatenate([C, [1e21, 1e22]])
    assert "at_bound:softmax.E" in compare.fit(table(c=short), Options(floor=None, replicates=0)).flags
    data = table()
    for changed, options, message in (
        (table(levels={"one": LEVELS["softmax"]}), {}, "two groups at least; there is 1"),
        (data, {"baseline": "none"}, "'none' is none of the groups softmax, hybrid, linear"),
        (table(c=C[:2]), {}, "Group softmax: L.C. with a fixed floor needs 3 budgets"),
        (table(c=C[:3]), {"floor": None}, "needs 4 budgets"),
        (table(c=np.full(5, 1e20)), {}, "there are 1"),
        (table(levels={"a": (0, 1.0, 0.0), "b": (0, 1.0, -0.1)}), {}, "do not fall with FLOPs"),
        (data, {"law": "parametric"}, "Group softmax: .*missing"),
    ):
        with pytest.raises(CannotFit, match=message):
            compare.fit(changed, Options(replicates=20, **options))
    with pytest.raises(CannotFit, match="flops to be a finite number"):
        Options(flops=-1.0)


def test_the_command(tmp_path: Path) -> None:
    data = table(0.002)
    frame = pd.DataFrame({**data.columns, "group": data.label("group")})
    frame.to_csv(tmp_path / "groups.csv", index=False)
    file, picture = tmp_path / "compare.json", tmp_path / "compare.png"
    words = ["fit", str(tmp_path / "groups.csv"), "--law", "compare", "--option", "replicates=50"]
    more = ["--at", "flops=1e20", "--json", str(file), "--png", str(picture)]
    done = CliRunner().invoke(app, [*words, *more])
    assert done.exit_code == 0, done.output
    assert "hybrid.compute_ratio" in done.output
    record = json.loads(file.read_text())
    assert [row["at"]["flops"] for row in record["predictions"]] == [pytest.approx(1e21), 1e20]
    assert picture.stat().st_size > 10_000
