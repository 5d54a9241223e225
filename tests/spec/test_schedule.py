from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepctl.errors import RequestError
from sweepctl.spec.schedule import Decay, LearningRateCurve, Schedule

SHAPES = ["linear", "1-sqrt", "cosine", "exponential"]


@given(
    st.sampled_from(SHAPES),
    st.integers(0, 50),
    st.integers(0, 200),
    st.integers(1, 100),
    st.floats(0.01, 0.9),
)
def test_warmup_rises_plateau_is_flat_decay_falls_to_its_floor(
    shape: str, warmup: int, plateau: int, decay: int, floor: float
) -> None:
    cut, end = warmup + plateau, warmup + plateau + decay
    curve = LearningRateCurve(warmup, cut, end, shape, floor)
    values = [curve.at(step) for step in range(end)]
    assert values[:warmup] == sorted(values[:warmup])
    assert all(value == 1.0 for value in values[warmup : cut + 1])
    assert values[cut:] == sorted(values[cut:], reverse=True)
    assert values[-1] >= floor - 1e-12
    assert LearningRateCurve(warmup, cut, cut + 10**6, shape, floor).at(cut + 10**6 - 1) == pytest.approx(
        floor, abs=1e-2
    )


@given(st.sampled_from(SHAPES), st.integers(1, 100))
def test_a_branch_and_its_trunk_agree_before_the_cut(shape: str, cut: int) -> None:
    trunk, branch = LearningRateCurve(7), LearningRateCurve(7, cut, cut + 20, shape, 0.1)
    assert [trunk.at(step) for step in range(cut)] == [branch.at(step) for step in range(cut)]


def test_half_way_down() -> None:
    at = {shape: LearningRateCurve(0, 0, 100, shape, 0.01).at(25) for shape in SHAPES}
    assert at["linear"] == pytest.approx(0.01 + 0.99 * 0.75)
    assert at["1-sqrt"] == pytest.approx(0.01 + 0.99 * 0.5)
    assert at["cosine"] == pytest.approx(0.01 + 0.99 * 0.8535534)
    assert at["exponential"] == pytest.approx(0.01**0.25)


def test_warmup_in_tokens_does_not_depend_on_the_budget() -> None:
    schedule = Schedule(warmup_tokens=6400)
    assert schedule.warmup(64) == 100 and schedule.warmup(128) == 50
    assert Schedule(warmup_steps=7).warmup(64) == 7


def test_a_cosine_cannot_fork() -> None:
    cosine = Schedule("cosine", warmup_steps=10, decay=Decay("cosine", 1.0, 0.1))
    assert not cosine.forks and cosine.cut(100, 64) == 10
    assert not Schedule(warmup_steps=1, fork=False).forks


def test_a_decay_inside_the_warmup_is_refused() -> None:
    with pytest.raises(RequestError, match="inside the warmup of 40 steps"):
        Schedule(warmup_steps=40, decay=Decay(fraction=0.2)).cut(45, 64)


@pytest.mark.parametrize("both", [{}, {"warmup_steps": 1, "warmup_tokens": 1}])
def test_warmup_is_given_once(both: dict) -> None:
    with pytest.raises(RequestError, match="one of the two"):
        Schedule(**both)


def test_an_exponential_needs_a_floor() -> None:
    with pytest.raises(RequestError, match="never reaches 0"):
        Decay("exponential", 0.1, 0.0)
