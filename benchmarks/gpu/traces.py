"""Losses and weights of short runs, each in a process: python -m benchmarks.gpu.traces SETTING TRACE."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.gpu.setting import Setting


@dataclass(frozen=True, slots=True)
class Trace:
    """A run of the demo's smallest rung."""

    overrides: tuple[str, ...]
    """Of the demo."""
    steps: int
    """Updates."""
    device: Literal["cuda", "cpu"]
    """Where."""
    compiled: bool
    """Whether the model is."""
    deterministic: bool = False
    """Whether torch's algorithms are to be."""


@dataclass(frozen=True, slots=True)
class Traced:
    """What came of it."""

    losses: list[float]
    """Of every step."""
    fingerprint: str
    """Of the weights after the last one."""


def traces(setting: Setting, wanted: Sequence[Trace], caches: Sequence[str] = ()) -> list[Traced]:
    """All of them at once, each with a compile cache of its own where `caches` are named; one after another
    in this process where it must be quick.

    Raises:
        RuntimeError: one of the processes failed; the end of what it printed.
    """
    if setting.quick:
        return [run(setting, trace) for trace in wanted]
    running = []
    for number, trace in enumerate(wanted):
        environment = dict(os.environ)
        if caches:
            environment["TORCHINDUCTOR_CACHE_DIR"] = caches[number]
            environment["TRITON_CACHE_DIR"] = os.path.join(caches[number], "triton")
        command = [sys.executable, "-m", "benchmarks.gpu.traces", setting.line()]
        command.append(json.dumps(dataclasses.asdict(trace)))
        running.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
        )
    ended = [(process.communicate(), process.returncode) for process in running]
    for (_, errors), code in ended:
        if code:
            raise RuntimeError((errors.strip().splitlines() or [f"exit code {code}"])[-1])
    return [Traced(**json.loads(output.splitlines()[-1])) for (output, _), _ in ended]


def run(setting: Setting, trace: Trace) -> Traced:
    """The run, in this process."""
    from benchmarks.gpu.corpora import data
    from benchmarks.gpu.models import model
    from sweepctl.spec.execution import Execution

    device, compiled = trace.device, trace.compiled
    execution = Execution(device=device, compile=compiled, deterministic=trace.deterministic)
    ours = model(data(setting.home) / "pysrc", ["ladder.depths=[2]", *trace.overrides], execution)
    losses = ours.losses(trace.steps)
    return Traced(losses, ours.fingerprint())


def main() -> None:
    """Train and print losses and fingerprint."""
    setting, raw = Setting.read(sys.argv[1]), json.loads(sys.argv[2])
    traced = run(setting, Trace(**{**raw, "overrides": tuple(raw["overrides"])}))
    print(json.dumps(dataclasses.asdict(traced)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
