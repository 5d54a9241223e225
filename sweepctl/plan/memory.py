"""Which rungs of a plan need more memory than a GPU has, and what would make them fit. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from sweepctl.plan.plan import Plan
from sweepctl.plan.settings import SIZES
from sweepctl.spec.execution import Execution
from sweepctl.spec.memory import Layout, Memory, choose_layout, count_memory
from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.science import Point


@dataclass(frozen=True, slots=True)
class RungMemory:
    """What a process of a rung's jobs needs: of the point that needs most."""

    rung: str
    """Its name."""
    layout: Layout
    """How it would be trained."""
    needs: Memory
    """Its bytes."""
    gpu_bytes: int
    """A GPU's, or the part of it that the process has."""
    fits: bool
    """Whether there is room for it."""
    remedies: tuple[str, ...] = ()
    """Settings that would make it fit, each enough by itself, where it does not."""


def rung_memories(
    plan: Plan,
    execution: Callable[[str], Execution],
    processes: Callable[[str], int],
    gpu_bytes: int,
    most_processes: int = 1,
) -> list[RungMemory]:
    """The plan's rungs on GPUs with so much memory; `execution` and `processes` say how its jobs are run, of
    which one can have so many GPUs at most.
    Rungs on a CPU and of other trainers are left out, and those whose batch cannot be shared evenly."""
    worst: dict[str, tuple[RungMemory, Point]] = {}
    for rung, point in _distinct(plan):
        how, size = execution(rung), processes(rung)
        if how.device == "cpu" or point.trainer != "builtin" or not _divides(point, how, size):
            continue
        memory = _of_point(rung, point, how, size, gpu_bytes)
        if rung not in worst or memory.needs.total > worst[rung][0].needs.total:
            worst[rung] = memory, point
    return [
        memory
        if memory.fits
        else replace(
            memory,
            remedies=tuple(
                _remedies(memory, point, execution(rung), processes(rung), gpu_bytes, most_processes)
            ),
        )
        for rung, (memory, point) in worst.items()
    ]


def _distinct(plan: Plan) -> Iterator[tuple[str, Point]]:
    """The points that differ in what memory depends on, with their rung."""
    sized_by = {"batch.tokens", "precision", "optimizer.name"}
    sized_by |= {f"optimizer.{key}" for kind in Optimizer.kinds().values() for key in kind.sized_by}
    distinct = set()
    for index, row in enumerate(plan.points):
        own = tuple(
            (path, str(value))
            for path, value in sorted(row.settings.items())
            if path in sized_by or path.startswith(SIZES)
        )
        if (row.rung, own) not in distinct:
            distinct.add((row.rung, own))
            yield plan.rungs[row.rung].name, plan.point(index)


def _divides(point: Point, how: Execution, processes: int) -> bool:
    """Whether the batch can be cut as it is asked for."""
    rows = how.micro_batch_rows
    own, left = divmod(point.batch.rows, processes)
    return own > 0 and not left and (not isinstance(rows, int) or own % rows == 0)


def _of_point(rung: str, point: Point, how: Execution, processes: int, gpu_bytes: int) -> RungMemory:
    own_bytes = gpu_bytes // how.per_gpu
    layout = choose_layout(point, how, processes, own_bytes)
    needs = count_memory(point, layout)
    return RungMemory(rung, layout, needs, own_bytes, needs.fits(own_bytes))


def _remedies(
    memory: RungMemory, point: Point, how: Execution, processes: int, gpu_bytes: int, most_processes: int
) -> Iterator[str]:
    """The least changes that fit: a smaller micro-batch, blocks computed anew, the whole GPU; else more
    shared out, and more GPUs."""

    def remedy(changed: Execution, size: int) -> tuple[int, str] | None:
        """The rows with these settings and the words for them, if they fit."""
        tried = _of_point(memory.rung, point, changed, size, gpu_bytes)
        if not tried.fits:
            return None
        words = [f"{size} GPUs a job"] if size > processes else []
        if changed.per_gpu != how.per_gpu:
            words.append(f"execution.per_gpu={changed.per_gpu}")
        if tried.layout.shard != memory.layout.shard:
            words.append(f"execution.shard={tried.layout.shard}")
        if tried.layout.recomputes != memory.layout.recomputes:
            words.append("execution.checkpoint_activations=true")
        if tried.layout.rows != memory.layout.rows:
            words.append(f"execution.micro_batch_rows={tried.layout.rows}")
        return tried.layout.rows, " ".join(words)

    auto = replace(how, micro_batch_rows="auto")
    anew = replace(auto, checkpoint_activations=True)
    alone = replace(how, per_gpu=1)
    tries = [(changed, processes) for changed in [auto, anew, *([alone] if how.per_gpu > 1 else [])]]
    size = processes
    fitting: list[tuple[int, str]] = []
    while not fitting and size <= max(processes, most_processes) and point.batch.rows % size == 0:
        if size > 1:
            tries += [
                (replace(changed, per_gpu=1, shard=shard), size)
                for changed, shard in ((auto, how.shard), (auto, "gradients"), (anew, "gradients"))
            ]
        fitting = [it for it in (remedy(*attempt) for attempt in tries) if it is not None]
        tries, size = [], 2 * size
    rows = 0
    for own_rows, words in fitting:  # a further change is worth no word unless more rows fit with it
        if own_rows > rows:
            rows = own_rows
            yield words
