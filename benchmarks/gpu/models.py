"""Trainers as jobs have them, of the demo's study with overrides, driven step by step."""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweepctl.spec.execution import Execution
    from sweepctl.spec.learning_rate import LearningRateCurve
    from sweepctl.train.builtin import BuiltinTrainer

BUDGET = ("budget.flops=[]", "budget.tokens=[1e12]", "budget.max_tokens=null", "budget.min_steps=0")
BUDGET += ("budget.min_tokens_per_parameter=0", "stages={}")


@dataclass(frozen=True, slots=True)
class Model:
    """A trainer and its curve of the learning rate."""

    trainer: BuiltinTrainer
    """At its next step."""
    curve: LearningRateCurve
    """Of its science."""

    @property
    def batch_tokens(self) -> int:
        return self.trainer.point.batch.tokens

    def updates(self, count: int) -> float:
        """The loss of the last of so many updates, for which alone the device is waited for."""
        for _ in range(count - 1):
            self.trainer.update(self.curve)
        return float(self.trainer.update(self.curve).loss)

    def losses(self, count: int) -> list[float]:
        """Of each of so many updates."""
        return [float(self.trainer.update(self.curve).loss) for _ in range(count)]

    def fingerprint(self) -> str:
        """Of all bits of the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.trainer.model.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def model(corpus: Path, overrides: Sequence[str], execution: Execution) -> Model:
    """A new one."""
    from sweepctl.data.shards import read_index
    from sweepctl.plan.expand import expand
    from sweepctl.spec.compose import compose_study
    from sweepctl.train.batches import Batches
    from sweepctl.train.builtin import BuiltinTrainer
    from sweepctl.train.device import machine

    plan = expand(compose_study([*BUDGET, *overrides]), "all", read_index(corpus).facts)
    science = plan.science(plan.jobs[0])
    point = science.point
    where = machine(execution, point.precision)
    trainer = BuiltinTrainer(point, Batches(corpus, point), where, execution)
    trainer.share()
    return Model(trainer, science.curve())


def rung(depth: int, context: int, rows: int) -> list[str]:
    """A decoder of 64 units a layer, heads of 64, in bf16."""
    size = ["model=decoder", "ladder.aspect=64", "ladder.head_size=64", f"ladder.depths=[{depth}]"]
    return [*size, "precision=bf16", f"batch.tokens={rows * context}", f"batch.context={context}"]


def forget() -> None:
    """Give back what models held that nobody names any more."""
    import torch

    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def once(action: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
