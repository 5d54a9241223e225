from __future__ import annotations

import pytest

from sweepctl.errors import RequestError
from sweepctl.spec.build import build
from sweepctl.spec.grid import Grid, Sample, axis_values


def test_axes_are_crossed_in_order() -> None:
    grid = Grid({"optimizer.lr": [0.1, 0.2], "seed.init": {"seeds": 2}})
    assert grid.settings() == [
        {"optimizer.lr": 0.1, "seed.init": 0},
        {"optimizer.lr": 0.1, "seed.init": 1},
        {"optimizer.lr": 0.2, "seed.init": 0},
        {"optimizer.lr": 0.2, "seed.init": 1},
    ]
    assert Grid().settings() == [{}]


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ({"log2": {"from": -3, "to": -1}}, [0.125, 0.25, 0.5]),
        ({"log2": {"from": -1, "to": 0, "step": 0.5}}, [0.5, 0.5**0.5, 1.0]),
        ({"log": {"from": 1e-4, "to": 1e-2, "count": 3}}, [1e-4, 1e-3, 1e-2]),
        ({"linear": {"from": 1, "to": 2, "count": 3}}, [1, 1.5, 2]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_rules(axis, values) -> None:
    listed = axis_values("x", axis)
    assert listed == (values if isinstance(values[0], str) else pytest.approx(values))


def test_sampling_is_seeded_and_each_draw_stands_alone() -> None:
    """Cerebras-GPT drew 200 settings: asking for more keeps the ones that are there."""
    axes = {
        "optimizer.lr": {"log_uniform": [1e-4, 1e-1]},
        "batch.tokens": [64, 128],
        "x.y": {"uniform": [2, 3]},
    }
    drawn = Grid(axes, Sample(200, 1)).settings()
    assert drawn == Grid(axes, Sample(300, 1)).settings()[:200]
    assert drawn != Grid(axes, Sample(200, 2)).settings()
    rates = sorted(point["optimizer.lr"] for point in drawn)
    assert rates[0] >= 1e-4 and rates[-1] <= 1e-1
    assert 40 < sum(rate < 1e-3 for rate in rates) < 95  # a third of the decades, about a third of the draws
    assert {point["batch.tokens"] for point in drawn} == {64, 128}
    assert all(2 <= point["x.y"] <= 3 for point in drawn)


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"a.b": []}, "at least one value"),
        ({"a.b": [1, 1]}, "without repeated"),
        ({"a.b": 3}, "a list of values"),
        ({"a.b": {"log": {"from": 1, "to": 2}}}, "log: {from, to, count}"),
        ({"a.b": {"log": {"from": 0, "to": 2, "count": 3}}}, "log: {from, to, count}"),
        ({"a.b": {"logg": [1, 2]}}, "one of the rules"),
        ({"a.b": {"uniform": [1, 2]}}, "grid.sample.count"),
        ({"a.b": {"seeds": "many"}}, "seeds: a number"),
    ],
)
def test_what_is_no_axis_is_named(axes: dict, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        build(Grid, {"axes": axes}, "grid")
    assert "axes.a.b" in str(caught.value)
