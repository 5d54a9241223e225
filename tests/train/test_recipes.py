"""The groups of `conf/` combine freely: every model with every parametrization, and with them in turn every
optimizer, schedule and scaling rule, is planned and trained."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from sweepctl.plan.expand import expand
from sweepctl.resources import conf_dir
from sweepctl.spec.compose import compose_study
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.execution import Execution
from sweepctl.train.batches import Batches
from sweepctl.train.builtin import BuiltinTrainer
from sweepctl.train.device import machine


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


OPTIMIZERS, SCHEDULES, SCALING = (itertools.cycle(options(g)) for g in ("optimizer", "schedule", "scaling"))
RECIPES = [
    (f"model={model}", f"parametrization={table}", *(
        f"{group}={next(turn)}"
        for group, turn in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("scaling", SCALING))
    ))
    for model, table in itertools.product(options("model"), options("parametrization"))
]  # fmt: skip
TINY = (
    *("ladder.aspect=16", "ladder.head_size=8", "ladder.depths=[2]", "stages={}", "schedule.warmup_steps=2"),
    *("batch.tokens=64", "batch.context=16", "budget.flops=[]", "budget.tokens=[1280,2560]"),
    *("budget.min_steps=0", "budget.min_tokens_per_parameter=0", "scaling.fields.batch.tokens=64"),
)


def test_every_choice_is_in_some_recipe() -> None:
    """The groups' sizes do not hide choices from each other."""
    for group in ("optimizer", "schedule", "scaling"):
        assert {f"{group}={name}" for name in options(group)} <= {choice for r in RECIPES for choice in r}


@pytest.mark.parametrize("recipe", RECIPES, ids=" ".join)
def test_a_recipe_trains(recipe: tuple[str, ...], facts: CorpusFacts, corpus_folder: Path) -> None:
    tiny = TINY if "scaling=none" not in recipe else TINY[:-1]
    plan = expand(compose_study([*recipe, *tiny]), "all", facts)
    science = plan.science(plan.jobs[0])
    execution = Execution(device="cpu")
    where = machine(execution, science.point.precision)
    trainer = BuiltinTrainer(science.point, Batches(corpus_folder, science.point), where, execution)
    curve = science.curve()
    assert sum(p.numel() for p in trainer.model.parameters()) == plan.rungs[0].counts.total
    for _ in range(3):
        assert trainer.update(curve).loss.isfinite()
    assert trainer.evaluate("validation", 256) < 8
