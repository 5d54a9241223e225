"""Line 7: the peak of a GPU's memory beside what `plan` says it will be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.gpu.corpora import random_tokens
from benchmarks.gpu.models import forget, model, rung
from benchmarks.gpu.setting import Case, Row, Setting, each
from benchmarks.gpu.speed import Shape, shapes


def rows(setting: Setting) -> Iterator[Row]:
    cases: list[Case] = [(shape.name, partial(_peak, setting, shape)) for shape in shapes(setting)]
    yield from each(setting, cases)


def _peak(setting: Setting, shape: Shape) -> Iterator[Row]:
    import torch

    from sweepctl.spec.execution import Execution

    execution = Execution(device=setting.device, compile=shape.compiled)
    if setting.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    size = rung(shape.depth, shape.context, 2 if setting.quick else shape.rows)
    ours = model(random_tokens(setting.home, shape.vocabulary), size, execution)
    ours.updates(3)
    peak = torch.cuda.max_memory_allocated() if setting.on_gpu else None
    counted = ours.trainer.setup().counted_memory_bytes
    del ours
    forget()
    if peak is None:
        yield Row(shape.name, "skipped", "a CPU has no peak that torch counts")
        return
    figures = {"peak_bytes": peak, "counted_bytes": counted}
    if counted is None:
        yield Row(shape.name, "figure", f"{peak / 2**30:.2f} GiB; the plan counts none", figures)
        return
    says = f"{peak / 2**30:.2f} GiB of {counted / 2**30:.2f} GiB that the plan counts"
    yield Row(shape.name, "holds" if peak <= counted else "fails", says, figures)
