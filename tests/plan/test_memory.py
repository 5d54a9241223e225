"""Rungs held against a GPU's memory, and what makes them fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sweepctl.plan.expand import expand
from sweepctl.plan.memory import RungMemory, rung_memories
from sweepctl.plan.plan import Plan
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.execution import Execution
from sweepctl.spec.memory import choose_layout, count_memory
from tests.conftest import tiny

GB = 10**9


def plan_of(**changes: Any) -> Plan:
    """Rungs of 2 and 12 layers, the larger one of 107 million parameters, trained on 64 rows."""
    sizes: dict[str, Any] = {
        "ladder__depths": [2, 12],
        "ladder__head_size": 128,
        "ladder__aspect": 64,
        "batch__context": 1024,
        "batch__tokens": 64 * 1024,
        "precision": "bf16",
        "budget__tokens": [2**22],
    }
    study = tiny(**{**sizes, **changes})
    return expand(study, next(iter(study.all_stages)), CorpusFacts("0" * 16, 32768, 10**9, ("validation",)))


def memories(plan: Plan, gb: float, processes: int = 1, most: int = 64, **execution: Any) -> list[RungMemory]:
    return rung_memories(
        plan, lambda rung: Execution(**execution), lambda rung: processes, int(gb * GB), most
    )


def with_remedy(text: str, how: Execution, processes: int) -> tuple[Execution, int]:
    """The settings that a remedy's words make."""
    for word in text.replace(" GPUs a job", "_GPUs").split():
        if word.endswith("_GPUs"):
            processes = int(word.partition("_")[0])
            continue
        key, _, value = word.removeprefix("execution.").partition("=")
        shown: Any = {"true": True}.get(value, int(value) if value.isdigit() else value)
        how = replace(how, **{key: shown})
    return how, processes


@pytest.mark.parametrize(
    ("processes", "gb", "execution"),
    [
        (1, 16, {}),
        (1, 5, {}),
        (1, 3, {"checkpoint_activations": True}),
        (2, 8, {"shard": "none"}),
        (1, 40, {"per_gpu": 8}),
        (1, 4.2, {"micro_batch_rows": "auto", "per_gpu": 2}),
    ],
)
def test_every_remedy_makes_it_fit(processes: int, gb: float, execution: dict[str, Any]) -> None:
    plan = plan_of()
    large = memories(plan, gb, processes, **execution)[-1]
    assert large.rung == plan.rungs[-1].name and not large.fits and large.remedies
    point = plan.point(next(i for i, row in enumerate(plan.points) if row.rung == 1))
    for text in large.remedies:
        how, size = with_remedy(text, Execution(**execution), processes)
        own_bytes = int(gb * GB) // how.per_gpu
        assert count_memory(point, choose_layout(point, how, size, own_bytes)).fits(own_bytes), text


def test_more_gpus_are_no_remedy_where_a_job_has_but_one() -> None:
    for most in (1, 64):
        words = " ".join(memories(plan_of(), 3, most=most, checkpoint_activations=True)[-1].remedies)
        assert ("GPUs a job" in words) == (most > 1)


def test_only_what_does_not_fit_has_remedies() -> None:
    plan = plan_of()
    small, large = memories(plan, 12)
    assert (small.fits, large.fits) == (True, False) and not small.remedies
    assert all(memory.fits for memory in memories(plan, 192))
    assert not any(memory.fits or memory.remedies for memory in memories(plan, 0.5))
    assert memories(plan, 0.5, device="cpu") == []
    assert memories(plan, 12, processes=3) == [] == memories(plan, 12, micro_batch_rows=5)


def test_a_rung_is_its_point_that_needs_most() -> None:
    grid = {"axes": {"batch.tokens": [16 * 1024, 64 * 1024]}}
    whole, of_grid = memories(plan_of(), 12), memories(plan_of(grid=grid), 12)
    assert [memory.needs for memory in whole] == [memory.needs for memory in of_grid]
