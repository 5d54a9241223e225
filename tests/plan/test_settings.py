"""Settings of points: what they are set on, in which order, and how they are told where they are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from sweepctl.errors import RequestError
from sweepctl.plan.plan import load
from sweepctl.plan.settings import PointSettings
from sweepctl.spec.schedules.multistep import MultiStep
from tests.plan.test_expand import plan


@pytest.mark.parametrize(
    "axes",
    [
        {"optimizer.momentum": [0.5, 0.8], "optimizer.name": ["sgd"]},
        {"schedule.drops": [[[0.5, 0.5]], [[0.6, 0.5]]], "schedule.kind": ["multistep"]},
    ],
)
def test_a_kind_is_set_before_the_fields_that_it_alone_has(axes: dict[str, list[Any]]) -> None:
    """Also where they come in another order, as they do from a plan's file."""
    planned = plan(grid={"axes": axes}, ladder__depths=[1])
    again = load(planned.text, "x")
    assert again == planned and len(again.points) == 2
    assert all(again.science(job).id == job.id for job in again.jobs)


def test_settings_are_a_mapping_in_the_order_that_the_study_has() -> None:
    settings = PointSettings({"optimizer.lr": 0.1, "schedule.kind": "multistep"})
    assert list(settings) == ["optimizer.lr", "schedule.kind"] and settings["optimizer.lr"] == 0.1
    assert [path for path, _ in settings.in_order()] == ["schedule.kind", "optimizer.lr"]
    assert settings.without({"schedule.kind"}) == {"optimizer.lr": 0.1}
    assert settings == PointSettings({"schedule.kind": "multistep", "optimizer.lr": 0.1})


def test_a_points_schedule_is_its_settings_but_for_its_warmup() -> None:
    """The point has its warmup in steps: the study's may be in tokens."""
    settings = PointSettings({"schedule.warmup_steps": 9, "schedule.kind": "multistep"})
    assert settings.schedule(plan().schedule) == MultiStep(warmup_steps=4)


@pytest.mark.parametrize(
    ("axis", "value", "said"),
    [
        ("schedule.decay.fraction", 2, r"schedule\.decay\.fraction=2\.0 is not valid"),
        ("schedule.decay.fracton", 1, r"Did you mean schedule\.decay\.fraction\?"),
        ("schedule.drops", [[0.5, 0.5]], r"schedule\.drops is a key of multistep, not of wsd: leave it out"),
        ("schedule.kind", "sawtooth", r"schedule\.kind='sawtooth' .* one of wsd, multistep"),
    ],
)
def test_a_setting_of_the_schedule_is_named_by_its_path_in_the_study(
    axis: str, value: object, said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        plan(grid={"axes": {axis: [value]}})
