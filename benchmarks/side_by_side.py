"""Things that do the same work, timed in turns, so that a noisy machine is noisy for all of them."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweepctl.spec.execution import Execution


def take_turns(actions: Sequence[Callable[[], object]], rounds: int, inner: int = 1) -> list[list[float]]:
    """Seconds of every action (the mean of `inner` calls) in each round, after one round that does not count.

    Within a round the actions follow each other directly; every round begins with the next one.
    """
    seconds: list[list[float]] = [[] for _ in actions]
    for turn in range(-1, rounds):
        for place in range(len(actions)):
            which = (place + turn) % len(actions)
            began = time.perf_counter()
            for _ in range(inner):
                actions[which]()
            if turn >= 0:
                seconds[which].append((time.perf_counter() - began) / inner)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    """Median of the rounds' ratios slow / fast, with their quartiles."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return middle, low, high


def demo_update(
    corpus: Path, overrides: Sequence[str], execution: Execution
) -> tuple[Callable[[], object], int, float | None]:
    """One update of the demo's trainer under overrides, its exact FLOPs a token, and the device's peak."""
    from sweepctl.data.shards import read_index
    from sweepctl.plan.expand import expand
    from sweepctl.spec.compose import compose_study
    from sweepctl.train.batches import Batches
    from sweepctl.train.builtin import BuiltinTrainer
    from sweepctl.train.device import machine

    budget = ["budget.flops=[]", "budget.tokens=[1e12]", "budget.max_tokens=null", "budget.min_steps=0"]
    budget += ["budget.min_tokens_per_parameter=0", "stages={}"]
    plan = expand(compose_study([*budget, *overrides]), "all", read_index(corpus).facts)
    science = plan.science(plan.jobs[0])
    point, curve = science.point, science.curve()
    where = machine(execution, point.precision)
    trainer = BuiltinTrainer(point, Batches(corpus, point), where, execution)
    flops = plan.rungs[0].counts.exact_flops_per_token
    return lambda: trainer.update(curve).loss.item(), flops, where.peak_flops


@contextmanager
def corpus() -> Iterator[Path]:
    """Synthetic text under the name of the demo's corpus, in a workspace that is gone afterwards."""
    from sweepctl.data.corpora import prepare_synthetic

    with tempfile.TemporaryDirectory() as folder:
        os.environ["SWEEPCTL_HOME"] = folder
        prepared = Path(folder) / "data" / "pysrc"
        prepare_synthetic(prepared, seed=0, train_tokens=4_000_000, validation_tokens=100_000)
        yield prepared


def machine() -> str:
    """The machine in a line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, Python {platform.python_version()}"
