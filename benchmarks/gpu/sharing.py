"""Line 6: tokens a second of small models, alone and several at once on a card, by each way of sharing it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.gpu.corpora import random_tokens, vocabularies
from benchmarks.gpu.models import Model, model, rung
from benchmarks.gpu.setting import Case, Row, Setting, each

SIZES = {"1M": 3, "10M": 6}
"""Layers of 64 times as many units: 1.3M and 10.6M hidden parameters."""
AT_ONCE = (1, 2, 4, 8, 16)
ROWS, CONTEXT = 8, 1024
"""Of an update: a batch as small runs have it, which does not fill the card."""
MEASURED_S = 1.5
GOAL_AT, GOAL = 8, 4.0
"""So many runs of 10M at once train at least this many times the tokens of runs one after another."""


def rows(setting: Setting) -> Iterator[Row]:
    cases: list[Case] = [
        ("processes under MPS", partial(_processes, setting, True)),
        ("processes in turns", partial(_processes, setting, False)),
        ("stacked", partial(_stacked, setting)),
    ]
    yield from each(setting, cases)


class Crew:
    """Processes that each hold both models, trained by as many of them as are told to."""

    def __init__(self, setting: Setting, size: int, variables: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "benchmarks.gpu.sharing", setting.line()]
        helpers = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
        environment = {**os.environ, **helpers, **variables}
        self.processes: list[subprocess.Popen[str]] = []
        for count in (1, size - 1):  # the others find what the first has compiled
            started = [
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
                )
                for _ in range(count)
            ]
            self.processes += started
            for process in started:
                _answer(process)

    def tokens_per_s(self, size: str, count: int, seconds: float) -> float:
        """Of so many runs at once, summed."""
        for process in self.processes[:count]:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"size": size, "seconds": seconds}) + "\n")
            process.stdin.flush()
        return sum(float(_answer(process)["tokens_per_s"]) for process in self.processes[:count])

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    if not (text := process.stdout.readline()):
        raise RuntimeError(f"a process of the crew ended with exit code {process.wait()}")
    answer: dict[str, Any] = json.loads(text)
    return answer


def _processes(setting: Setting, mps: bool) -> Iterator[Row]:
    what = "processes under MPS" if mps else "processes in turns"
    at_once = (1, 2) if setting.quick else AT_ONCE
    with ExitStack() as stack:
        variables: Mapping[str, str] = {}
        if mps:
            if not setting.on_gpu:
                yield Row(what, "skipped", "needs a GPU")
                return
            variables, why = _daemon(stack)
            if why:
                yield Row(what, "skipped", why)
                return
        crew = Crew(setting, at_once[-1], variables)
        stack.callback(crew.end)
        for size in reversed(SIZES):
            alone = 0.0
            for count in at_once:
                total = crew.tokens_per_s(size, count, 0.2 if setting.quick else MEASURED_S)
                alone = alone or total
                yield compared(what, size, count, total, alone)


def _daemon(stack: ExitStack) -> tuple[Mapping[str, str], str]:
    """The variables of processes that share the GPU under MPS, or why they cannot."""
    from sweepctl.launch import mps

    said: list[str] = []
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    variables = stack.enter_context(mps.shared([gpu], said.append))
    if gpu in variables or any("daemon that is there" in text for text in said):
        return variables.get(gpu, {}), ""
    return {}, "; ".join(said) or "there is no daemon"


def compared(what: str, size: str, count: int, total: float, alone: float) -> Row:
    """Tokens a second of so many at once beside those of one after another."""
    figures = {"tokens_per_s": round(total), "over_alone": round(total / alone, 3)}
    says = f"{total:,.0f} tokens/s, {total / alone:.2f} times those of runs one after another"
    if (size, count) != ("10M", GOAL_AT):
        return Row(f"{size}, {count} at once, {what}", "figure", says, figures)
    verdict = "holds" if total >= GOAL * alone else "fails"
    return Row(f"{size}, {count} at once, {what}", verdict, f"{says} (goal {GOAL:g})", figures)  # type: ignore[arg-type]


def _stacked(setting: Setting) -> Iterator[Row]:
    yield Row("stacked", "skipped", "not built")


def small_model(setting: Setting, size: str) -> Model:
    """As every process of a crew has it."""
    from sweepctl.spec.execution import Execution

    corpus = random_tokens(setting.home, vocabularies(setting.quick)[0])
    overrides = rung(1, 64, 1) if setting.quick else rung(SIZES[size], CONTEXT, ROWS)
    return model(corpus, overrides, Execution(device=setting.device, per_gpu=AT_ONCE[-1]))


def main() -> None:
    """A process of a crew: both models ready, then so many seconds of one of them at every command."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    setting = Setting.read(sys.argv[1])
    models = {size: small_model(setting, size) for size in SIZES}
    for trained in models.values():
        trained.updates(5)
    print(json.dumps({"ready": True}), file=output)
    for text in sys.stdin:
        command = json.loads(text)
        trained, tokens, began = models[command["size"]], 0, time.perf_counter()
        while time.perf_counter() - began < command["seconds"]:
            trained.updates(1 if setting.quick else 10)
            tokens += trained.batch_tokens * (1 if setting.quick else 10)
        answer = {"tokens_per_s": tokens / (time.perf_counter() - began)}
        print(json.dumps(answer), file=output)


if __name__ == "__main__":
    main()
