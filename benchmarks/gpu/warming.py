"""Compiles what line 5 measures, beside lines that are not timed, into the cache that all lines share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.gpu.models import forget, once
from benchmarks.gpu.setting import Case, Row, Setting, each
from benchmarks.gpu.sharing import SIZES, small_model
from benchmarks.gpu.speed import Shape, makers, shapes


def rows(setting: Setting) -> Iterator[Row]:
    """What line 6 trains, then the first shapes, so far as there is time."""
    cases: list[Case] = [("compiling small models", partial(_small, setting))]
    wanted = [shape for shape in shapes(setting) if shape.compiled or setting.quick]
    cases += [(f"compiling {shape.name}", partial(_compile, setting, shape)) for shape in wanted]
    yield from each(setting, cases)


def _small(setting: Setting) -> Iterator[Row]:
    seconds = {size: once(partial(small_model(setting, size).updates, 3)) for size in SIZES}
    forget()
    yield _row("small models", seconds)


def _compile(setting: Setting, shape: Shape) -> Iterator[Row]:
    """One model at a time: others have the card too."""
    seconds = {}
    for name, make in makers(setting, shape).items():
        seconds[name] = once(partial(make()[1], 1))
        forget()
    yield _row(shape.name, seconds)


def _row(what: str, seconds: dict[str, float]) -> Row:
    says = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    return Row(f"first updates of {what}", "figure", says, {"seconds": seconds})
