"""Mixtures of experts as they are written, counted and planned."""

from __future__ import annotations

import pytest

from sweepctl.errors import RequestError
from sweepctl.plan.expand import expand
from sweepctl.spec.build import plain
from sweepctl.spec.compose import compose_study
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.model import Experts
from tests.conftest import tiny
from tests.models import some_architecture

FACTS = CorpusFacts("c0ffee", 256, 1_000_000, ("validation",))


def test_the_groups_say_every_field() -> None:
    """Those that are null in every other file cannot be seen to be missing there."""
    moe = compose_study(["model=moe", "model.experts.count=16"]).model
    assert moe == some_architecture("relu2", experts=Experts(16))
    fine = compose_study(["model=moe_deepseek"]).model.experts
    assert fine == Experts(64, 6, 2, scores="sigmoid", balance_loss=1e-4, bias_rate=1e-3)
    for name in plain(Experts()):
        compose_study([f"model.experts.{name}={str(plain(fine)[name] or 0.5).lower()}", "model=moe"])


def test_experts_can_be_an_axis() -> None:
    study = compose_study(["model=moe", "model.experts.top_k=1,2", "stages={}", "data=synthetic"])
    planned = expand(study, "all", FACTS)
    assert {planned.science(job).point.model.experts.top_k for job in planned.jobs} == {1, 2}
    assert len({job.id for job in planned.jobs}) == len(planned.jobs)
    assert {rung.counts.idle > 0 for rung in planned.rungs} == {True}


def test_a_ladder_keeps_its_shapes() -> None:
    dense, sparse = (compose_study([f"model={name}"]) for name in ("decoder", "moe"))
    assert sparse.ladder.shapes(sparse.model) == dense.ladder.shapes(dense.model)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("count=1", "model.experts.count=1 is not valid: it must be at least 2"),
        ("top_k=0", "model.experts.top_k=0 is not valid: it must be at least 1 and at most count=8"),
        ("top_k=9", "model.experts.top_k=9 is not valid: it must be at least 1 and at most count=8"),
        ("shared=-1", "model.experts.shared=-1 is not valid: it must be at least 0"),
        ("d_ff_share=0", "above 0, or null for 1 / (top_k + shared)"),
        ("scores=relu", "one of softmax, sigmoid"),
        ("bias_rate=-0.1", "model.experts.bias_rate=-0.1 is not valid: it must be at least 0"),
        ("balance_loss=-1", "at least 0"),
        ("normalize=2", "true or false"),
    ],
)
def test_what_cannot_be_is_one_sentence(override: str, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        compose_study(["model=moe", f"model.experts.{override}"])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_an_axis_of_experts_needs_experts() -> None:
    study = tiny(grid={"axes": {"model.experts.top_k": [1, 2]}})
    with pytest.raises(
        RequestError, match=r"model\.experts\.top_k cannot be set where model\.experts is null"
    ):
        expand(study, "all", FACTS)
