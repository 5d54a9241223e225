"""Line 3: losses of the demo's first steps on a GPU beside those on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.gpu.setting import Row, Setting, each, mode_name
from benchmarks.gpu.traces import Trace, traces

STEPS = 50
BOUND_NATS = {"fp32": 0.01, "bf16": 0.1}
"""By which no loss may differ from the CPU's in fp32: chaos lets rounding grow with the steps."""


def rows(setting: Setting) -> Iterator[Row]:
    yield from each(setting, [("losses", partial(_compare, setting))])


def _compare(setting: Setting) -> Iterator[Row]:
    steps = 5 if setting.quick else STEPS
    ways = [(precision, compiled) for precision in BOUND_NATS for compiled in setting.modes]
    wanted = [Trace(("precision=fp32",), steps, "cpu", False)]
    wanted += [Trace((f"precision={p}",), steps, setting.device, compiled) for p, compiled in ways]
    reference, *others = traces(setting, wanted)
    for (precision, compiled), traced in zip(ways, others, strict=True):
        differences = [abs(a - b) for a, b in zip(traced.losses, reference.losses, strict=True)]
        worst = max(differences)
        verdict = "holds" if worst <= BOUND_NATS[precision] else "fails"  # also where it is not a number
        says = (
            f"up to {worst:.2g} nats from the CPU's in fp32 over {steps} steps, {differences[0]:.2g} at first"
        )
        figures = {"worst_nats": worst, "losses": traced.losses, "cpu_losses": reference.losses}
        yield Row(f"{precision}, {mode_name(compiled)}", verdict, says, figures)
