from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sweepctl.spec.accounting import Accounting, count
from sweepctl.spec.budget import Budgets
from sweepctl.spec.model import Shape
from tests.models import some_architecture

COUNTS = count(Shape(8, 2, 1, 32), some_architecture(activation="relu2"), 100, 16)
HIDDEN = Accounting("non_embedding", "six_n")


def test_the_three_ways_to_ask_for_the_same() -> None:
    n = COUNTS.non_embedding
    for asked in (
        Budgets(tokens=(20 * n,)),
        Budgets(tokens_per_parameter=(20,)),
        Budgets(flops=(6 * n * 20 * n,)),
    ):
        (budget,), dropped = asked.of(COUNTS, HIDDEN, batch_tokens=n)
        assert (budget.steps, budget.requested_tokens, dropped) == (20, 20 * n, [])


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=8), st.integers(1, 10**6))
def test_budgets_are_whole_steps_nearest_to_what_was_asked(tokens: list[float], batch: int) -> None:
    budgets, _ = Budgets(tokens=tuple(tokens)).of(COUNTS, HIDDEN, batch)
    steps = [budget.steps for budget in budgets]
    assert steps == sorted(set(steps)) and steps[0] >= 1
    for budget in budgets:
        assert budget.steps == 1 or abs(budget.steps * batch - budget.requested_tokens) <= batch / 2


def test_budgets_of_equal_steps_are_one_with_both_labels() -> None:
    (budget,), _ = Budgets(tokens=(1000, 1010)).of(COUNTS, HIDDEN, 500)
    assert (budget.steps, budget.label) == (2, "1k tokens = 1.01k tokens")


def test_limits_drop_and_say_why() -> None:
    budgets = Budgets(tokens=(100, 10_000, 100_000), min_steps=20, max_tokens=5e4, min_tokens_per_parameter=1)
    kept, dropped = budgets.of(COUNTS, HIDDEN, 10)
    assert [budget.steps for budget in kept] == [1000]
    assert dropped[0] == ("100 tokens", "10 steps are fewer than budget.min_steps=20")
    assert dropped[1] == ("100k tokens", "100k tokens are more than budget.max_tokens=50k")
    assert (
        Budgets(tokens=(1000,), min_tokens_per_parameter=1).of(COUNTS, HIDDEN, 10)[1][0][1].startswith("0.65")
    )
    assert Budgets(tokens=(1e9,), max_tokens_per_parameter=9).of(COUNTS, HIDDEN, 10)[0] == []
