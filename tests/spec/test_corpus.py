from __future__ import annotations

import pytest

from sweepctl.errors import RequestError
from sweepctl.plan.expand import expand
from sweepctl.plan.plan import load
from sweepctl.spec.corpus import CorpusFacts
from tests.conftest import tiny

FACTS = CorpusFacts("c0ffee", 256, 1_000_000, ("web", "code"))
LOSSES = {"code": 2.0, "web": 3.0}


@pytest.mark.parametrize(("loss_on", "loss"), [(None, 3.0), ("web", 3.0), ("code", 2.0)])
def test_the_study_names_the_held_out_set_whose_loss_counts(loss_on: str | None, loss: float) -> None:
    plan = expand(tiny(validation__loss_on=loss_on), "all", FACTS)
    assert plan.validation.loss_on == (loss_on or "web")  # the corpus's first, whatever a result has first
    assert plan.validation.loss(LOSSES) == loss
    assert plan.validation.loss({"other": 1.0}) is None
    assert load(plan.text, "x") == plan


def test_which_loss_counts_is_not_science() -> None:
    web, code = (expand(tiny(validation__loss_on=name), "all", FACTS).by_id.keys() for name in FACTS.held_out)
    assert web == code


def test_a_set_that_the_corpus_lacks_is_refused_when_it_is_planned() -> None:
    with pytest.raises(RequestError, match=r"validation.loss_on='news' .* null or one of web, code"):
        expand(tiny(validation__loss_on="news"), "all", FACTS)


def test_a_plan_from_before_sets_were_named_means_the_first_of_a_result() -> None:
    plan = expand(tiny(), "all", FACTS)
    old = load(plan.text.replace('"loss_on":"web",', ""), "x")
    assert old.validation.loss_on is None and old.validation.loss(LOSSES) == 2.0
