"""Where a grid has its least loss, and how sure that is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepctl.plan.optimum import Losses, optimum


def one_seed(losses: dict[float, float]) -> Losses:
    return {value: {"": loss} for value, loss in losses.items()}


def octaves(*losses: float, step: float = 1.0) -> Losses:
    """A grid from 2**-9 on, in steps of octaves."""
    return one_seed({2 ** (-9 + step * i): loss for i, loss in enumerate(losses)})


def bowl(at: float, bend: float, place: float) -> float:
    return 3 * (1 + bend * (place - at) ** 2)


@given(at=st.floats(-7.9, -6.1), bend=st.floats(0.005, 0.024), step=st.sampled_from([0.25, 0.5, 1.0]))
def test_the_vertex_is_inside_its_interval_wherever_it_lies(at: float, bend: float, step: float) -> None:
    places = [-9 + step * i for i in range(int(4 / step) + 1)]
    lowest = optimum(one_seed({2**place: bowl(at, bend, place) for place in places}))
    assert math.log2(lowest.value) == pytest.approx(at, abs=0.01)
    assert lowest.bend == pytest.approx(bend, rel=0.1)
    low, high = lowest.interval
    assert (low or 0) < lowest.value < (high or 1)
    assert not {"edge", "steep"} & set(lowest.flags)


@given(noise=st.lists(st.floats(-1e-12, 1e-12), min_size=5, max_size=5))
def test_the_last_bits_of_losses_move_nothing(noise: list[float]) -> None:
    losses = [bowl(-6.8, 0.01, -9 + i) for i in range(5)]
    assert optimum(octaves(*losses)) == optimum(
        octaves(*(loss + off for loss, off in zip(losses, noise, strict=True)))
    )


def test_the_wide_parabola_forgives_a_lowest_that_is_noise() -> None:
    """Losses of a run of the demo: through three points the vertex would be at 2**-7.8."""
    lowest = optimum(octaves(2.550, 2.472, 2.501, 2.478, 2.519))
    assert -7.1 < math.log2(lowest.value) < -6.6
    assert lowest.flags == ("near_tie", "wide")


@pytest.mark.parametrize(
    "losses, value, interval, flags",
    [
        ((3.0, 3.1, 3.3), 2**-9, (None, 2**-8), ("edge",)),
        ((3.3, 3.1, 3.0), 2**-7, (2**-8, None), ("edge",)),
        ((3.3, 3.1, math.inf), 2**-8, (2**-9, 2**-7), ("steep",)),
        ((math.inf, 3.0, 3.1), 2**-8, (2**-9, 2**-7), ("steep",)),
        ((3.1, 3.0, 5.0), 2**-8, (2**-9, 2**-7), ("steep",)),
        ((3.0, 3.2), 2**-9, (None, 2**-8), ("edge",)),
        ((3.0,), 2**-9, (None, None), ("edge",)),
        ((3.0, 3.0), 2**-9, (None, 2**-8), ("edge", "near_tie")),
    ],
)
def test_without_a_parabola_the_grids_own_value_counts(
    losses: tuple[float, ...],
    value: float,
    interval: tuple[float | None, float | None],
    flags: tuple[str, ...],
) -> None:
    lowest = optimum(octaves(*losses))
    assert (lowest.value, lowest.interval, lowest.flags) == (value, interval, flags)


def test_even_values_have_their_optimum_between_them() -> None:
    lowest = optimum(octaves(3.1, 3.0, 3.0, 3.1))
    assert math.log2(lowest.value) == pytest.approx(-7.5, abs=0.01) and "near_tie" in lowest.flags


def test_what_lies_up_a_steep_side_bends_nothing() -> None:
    gentle = octaves(3.09, 3.02, 3.0, 3.03, 3.1)
    assert optimum(gentle) == optimum({**gentle, 2**-4: {"": 8.0}, 2**-3: {"": 3.05}, 2**-2: {"": math.inf}})


def test_a_flat_grid_is_flagged_and_bounded_by_nothing() -> None:
    lowest = optimum(octaves(3.001, 3.0, 2.9995, 3.0, 3.001))
    assert lowest.interval == (None, None) and lowest.flags == ("near_tie", "wide")


def test_seeds_narrow_the_interval_and_their_own_effect_does_not_widen_it() -> None:
    noise = {"0": (0.02, -0.03, 0.01, 0.03, -0.02), "1": (-0.02, 0.02, -0.02, -0.02, 0.03)}
    curve = [bowl(-7.2, 0.01, -9 + i) for i in range(5)]

    def width(seeds: list[str], own_effect: float) -> float:
        grid = {
            2.0 ** (-9 + i): {seed: curve[i] + noise[seed][i] + own_effect * int(seed) for seed in seeds}
            for i in range(5)
        }
        low, high = optimum(grid).interval
        return math.log2(high / low) if low and high else math.inf

    assert width(["0", "1"], 0.0) < width(["0"], 0.0)
    assert width(["0", "1"], 0.3) == pytest.approx(width(["0", "1"], 0.0), rel=0.1)


def test_whole_numbers_and_words_stay_what_they_are() -> None:
    for grid in ({"relu": {"": 3.0}, "gelu": {"": 2.9}}, {256: {"": 3.0}, 512: {"": 2.9}, 1024: {"": 3.1}}):
        lowest = optimum(grid)  # type: ignore[arg-type]
        assert lowest.value == min(grid, key=lambda v: grid[v][""]) and lowest.flags == ("no_logarithm",)
    assert optimum({0.0: {"": 3.1}, 0.1: {"": 3.0}, 0.2: {"": 3.1}}).flags == ("no_logarithm",)


def test_the_cost_of_another_value_grows_as_the_square_of_octaves() -> None:
    lowest = optimum(octaves(3.08, 3.02, 3.0, 3.02, 3.08))
    assert lowest.bend is not None
    least, at, most = (lowest.cost(lowest.value * 2) or (0, 0, 0))[1], lowest.bend, lowest.bend * 4
    cost = lowest.cost(lowest.value * 2)
    assert cost is not None and least < cost[0] == pytest.approx(at, rel=0.01) and cost[0] < cost[2] < most
    assert (lowest.cost(lowest.value) or (1, 1, 1))[:2] == (0.0, 0.0)
