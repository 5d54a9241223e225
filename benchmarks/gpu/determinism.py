"""Line 1: what deterministic algorithms cost an update, eager and compiled."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.gpu.corpora import random_tokens, vocabularies
from benchmarks.gpu.models import forget, model, once, rung
from benchmarks.gpu.setting import Case, Row, Setting, each, mode_name


def rows(setting: Setting) -> Iterator[Row]:
    cases: list[Case] = [
        (f"price, {mode_name(mode)}", partial(_price, setting, mode)) for mode in setting.modes
    ]
    yield from each(setting, cases)


def _price(setting: Setting, compiled: bool) -> Iterator[Row]:
    """One after the other: what torch is told holds for a process."""
    from sweepctl.spec.execution import Execution

    corpus = random_tokens(setting.home, vocabularies(setting.quick)[0])
    context, depth = (64, 1) if setting.quick else (1024, 6)
    size = rung(depth, context, 2 if setting.quick else 32)
    count, seconds = 2 if setting.quick else 20, []
    for deterministic in (False, True):
        execution = Execution(device=setting.device, compile=compiled, deterministic=deterministic)
        ours = model(corpus, size, execution)
        ours.updates(count)
        seconds.append(min(once(partial(ours.updates, count)) for _ in range(3)) / count)
        del ours
        forget()
    ratio = seconds[1] / seconds[0]
    says = f"an update takes {ratio:.2f} times as long"
    yield Row(f"price, {mode_name(compiled)}", "figure", says, {"ratio": ratio, "seconds": seconds})
