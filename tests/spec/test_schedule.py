from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepctl.errors import RequestError
from sweepctl.spec.build import build
from sweepctl.spec.learning_rate import Cycles, LearningRateCurve, decay_multiplier
from sweepctl.spec.schedules.constant import Constant
from sweepctl.spec.schedules.cosine import Cosine, CosineDecay
from sweepctl.spec.schedules.decay import Decay
from sweepctl.spec.schedules.multistep import MultiStep
from sweepctl.spec.schedules.schedule import Schedule
from sweepctl.spec.schedules.wsd import Wsd
from sweepctl.spec.schedules.wsd_s import WsdS

SHAPES = ["linear", "1-sqrt", "cosine", "exponential", "square", "mirror-cosine", "inverse"]


def curve_of(schedule: Schedule, end: int, ends: tuple[int, ...] = ()) -> LearningRateCurve:
    """The curve of the budget that ends at `end`, one of `ends`, at 64 tokens an update."""
    a = schedule.anneal(schedule.cut(end, 64), end, 0)
    cycles = schedule.cycles(ends or (end,), 64)
    return LearningRateCurve(schedule.warmup(64), a.cut, a.end, a.shape, a.end_lr_share, a.drops, cycles)


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
    assert at["square"] == pytest.approx(0.01 + 0.99 * (1 - 0.0625))
    assert at["mirror-cosine"] == pytest.approx(0.01 + 0.99 * (2 * 0.75 - 0.8535534))
    assert at["inverse"] == pytest.approx(1 / (0.75 + 0.25 / 0.01))


@given(st.sampled_from(SHAPES), st.floats(0.001, 0.9), st.floats(0, 1 - 1e-6))
def test_a_decay_is_continuous_from_the_peak_to_its_floor(shape: str, floor: float, progress: float) -> None:
    at = [decay_multiplier(shape, p, floor) for p in (0.0, progress, progress + 1e-6, 1.0)]  # type: ignore[arg-type]
    assert (at[0], at[3]) == (pytest.approx(1.0), pytest.approx(floor))
    assert -1e-12 <= at[1] - at[2] <= 2e-3


def test_deepseeks_drops_at_whole_steps() -> None:
    schedule = MultiStep(warmup_steps=10)
    assert schedule.forks and schedule.cut(1001, 64) == 801
    curve = curve_of(schedule, 1001)
    assert curve.drops == ((801, 0.316), (901, 0.1))
    values = [curve.at(step) for step in (4, 9, 800, 801, 900, 901, 1000)]
    assert values == [0.5, 1.0, 1.0, 0.316, 0.316, 0.1, 0.1]


def test_a_constant_budget_is_a_point_of_its_trunk() -> None:
    schedule = Constant(warmup_steps=2)
    curve = curve_of(schedule, 10)
    assert (curve.cut, curve.end, curve.end_lr_share) == (10, 10, 1.0)
    assert [curve.at(step) for step in (0, 1, 9, 10, 11)] == [0.5, 1.0, 1.0, 1.0, 1.0]


def test_a_cosine_comes_down_from_its_warmup() -> None:
    curve = curve_of(Cosine(warmup_steps=10, decay=CosineDecay(0.1)), 110)
    assert curve.at(10) == 1.0 and curve.at(60) == pytest.approx(0.55)
    assert curve.at(109) == pytest.approx(0.1, abs=1e-3)


def test_a_decay_of_everything_begins_where_the_warmup_ends() -> None:
    """Linear to zero (Bergsma et al. 2025): it forks there, so that only the warmup is shared."""
    schedule = Wsd(warmup_steps=20, decay=Decay(fraction=1.0))
    assert schedule.cut(100, 64) == 20
    assert curve_of(schedule, 100).at(60) == pytest.approx(0.5)
    assert Wsd(warmup_steps=0, decay=Decay(fraction=1.0)).cut(100, 64) == 0


def test_wsd_s_decays_a_share_of_each_period_and_goes_on() -> None:
    """Ends at 0.5, 1, 2 times Chinchilla have periods of 0.5, 0.5 and 1, as in OLMo-core's ladder."""
    schedule = WsdS(warmup_steps=4, decay=Decay(fraction=0.1, end_lr_share=0.2), rewarm_tokens=256)
    cycles = schedule.cycles((100, 200, 400), 64)
    assert cycles == Cycles(((90, 100), (190, 200), (380, 400)), "linear", 0.2, 4)
    trunk = LearningRateCurve(4, cycles=cycles)
    assert [trunk.at(step) for step in (0, 3, 89, 90, 104, 189, 190, 379, 380)] == [0.25] + [1.0] * 8
    assert trunk.at(95) == pytest.approx(0.6) and trunk.at(99) == pytest.approx(0.28)
    assert [trunk.at(step) for step in (100, 101, 102, 103)] == pytest.approx([0.4, 0.6, 0.8, 1.0])
    assert trunk.at(390) == pytest.approx(0.6)
    for end in (100, 200, 400):
        branch = curve_of(schedule, end, (100, 200, 400))
        assert branch.cut == branch.end == end
        assert [branch.at(step) for step in range(end)] == [trunk.at(step) for step in range(end)]


@given(
    st.lists(st.integers(60, 2000), min_size=1, max_size=6, unique=True),
    st.sampled_from(sorted(Schedule.kinds())),
    st.sampled_from(SHAPES),
    st.floats(0.05, 0.3),
    st.integers(0, 3),
)
def test_every_curve_stays_between_0_and_1_and_shares_its_trunk(
    budgets: list[int], kind: str, shape: str, fraction: float, rewarm: int
) -> None:
    ends = tuple(sorted(budgets))
    decay = {"shape": shape, "fraction": fraction, "end_lr_share": 0.05}
    record = {"kind": kind, "warmup_steps": 7, "decay": decay, "rewarm_steps": rewarm}
    schedule = build(Schedule, Schedule.own_keys(record))
    try:
        curves = [curve_of(schedule, end, ends) for end in ends]
    except RequestError:
        assert kind == "wsd-s"  # periods too short to warm up again
        return
    trunk = LearningRateCurve(7, cycles=schedule.cycles(ends, 64))
    for end, curve in zip(ends, curves, strict=True):
        values = [curve.at(step) for step in range(end + 1)]
        assert all(0 < value <= 1 for value in values)
        if schedule.forks:
            assert curve.cut is not None
            assert values[: curve.cut] == [trunk.at(step) for step in range(curve.cut)]


def test_warmup_in_tokens_does_not_depend_on_the_budget() -> None:
    schedule = Wsd(warmup_tokens=6400)
    assert schedule.warmup(64) == 100 and schedule.warmup(128) == 50
    assert Wsd(warmup_steps=7).warmup(64) == 7


def test_a_cosine_cannot_fork() -> None:
    cosine = Cosine(warmup_steps=10)
    assert not cosine.forks and cosine.cut(100, 64) == 10
    assert not Wsd(warmup_steps=1, fork=False).forks


def test_a_decay_inside_the_warmup_is_refused() -> None:
    with pytest.raises(RequestError, match="inside the warmup of 40 steps"):
        Wsd(warmup_steps=40, decay=Decay(fraction=0.2)).cut(45, 64)


@pytest.mark.parametrize("both", [{}, {"warmup_steps": 1, "warmup_tokens": 1}])
def test_warmup_is_given_once(both: dict) -> None:
    with pytest.raises(RequestError, match="one of the two"):
        Wsd(**both)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"drops": ((0.9, 0.3), (0.8, 0.1))}, "drops=.* at rising shares of the budget between 0 and 1"),
        ({"drops": ((0.8, 0.3), (0.8, 0.1))}, "at rising shares"),
        ({"drops": ((0.8, 0.0),)}, "whose multipliers are above 0, at most 1"),
        ({"drops": ((0.8, 1.5),)}, "whose multipliers are above 0, at most 1"),
        ({"drops": ((1.0, 0.5),)}, "between 0 and 1"),
        ({"drops": ()}, "a list of .share of the budget, multiplier."),
        ({"drops": ((0.8,),)}, "a list of"),
        ({"rewarm_steps": -1}, "rewarm_steps=-1 is not valid: it must be at least 0"),
        ({"rewarm_steps": 5, "rewarm_tokens": 5}, "null where rewarm_steps is given"),
    ],
)
def test_bad_drops_and_rewarmings_are_named(fields: dict, said: str) -> None:
    kind: type[Schedule] = MultiStep if "drops" in fields else WsdS
    with pytest.raises(RequestError, match=said):
        kind(warmup_steps=1, **fields)


@pytest.mark.parametrize(
    ("schedule", "ends", "said"),
    [
        (MultiStep(warmup_steps=1), (4,), "too short for 2 drops, at steps 3, 4"),
        (MultiStep(warmup_steps=50), (60,), "decays from step 48, inside the warmup of 50"),
        (Constant(warmup_steps=50), (40,), "of 40 steps ends inside the warmup of 50 steps"),
        (WsdS(warmup_steps=1, rewarm_steps=20), (100, 120), "at step 118, inside the rewarming"),
        (
            WsdS(warmup_steps=95),
            (100, 200),
            "at step 90, inside the warmup that ends at step 95",
        ),
    ],
)
def test_budgets_that_a_schedule_cannot_have(schedule: Schedule, ends: tuple[int, ...], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        for end in ends:
            curve_of(schedule, end, ends)


@pytest.mark.parametrize("shape", ["exponential", "inverse"])
def test_a_shape_that_never_reaches_0_needs_a_floor(shape: str) -> None:
    with pytest.raises(RequestError, match=f"above 0 for an {shape} decay, which never reaches 0"):
        Decay(shape, 0.1, 0.0)  # type: ignore[arg-type]
