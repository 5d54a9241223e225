"""Compiles what line 5 measures, beside lines that are not timed, into the cache that all lines share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.gpu.models import forget, once
from benchmarks.gpu.setting import Case, Row, Setting, each
from benchmarks.gpu.speed import Shape, contestants, shapes


def rows(setting: Setting) -> Iterator[Row]:
    """The first shapes, so far as there is time."""
    wanted = [shape for shape in shapes(setting) if shape.compiled or setting.quick]
    cases: list[Case] = [(f"compiling {shape.name}", partial(_compile, setting, shape)) for shape in wanted]
    yield from each(setting, cases)


def _compile(setting: Setting, shape: Shape) -> Iterator[Row]:
    _, bursts = contestants(setting, shape)
    seconds = {name: round(once(partial(burst, 1)), 2) for name, burst in bursts.items()}
    bursts.clear()
    forget()
    says = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    yield Row(f"first update of {shape.name}", "figure", says, {"seconds": seconds})
