"""Line 5: tokens a second and MFU by rung, vocabulary, context and mode, in turns with nanoGPT if there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.corpora import random_tokens, vocabularies
from benchmarks.gpu.models import Model, forget, model, once, rung
from benchmarks.gpu.setting import Case, Row, Setting, each, mode_name
from benchmarks.side_by_side import ratio, take_turns

GPT2 = ("model.positions=learned", "model.norm=layernorm", "model.activation=gelu", "model.tied=true")
GPT2 += ("model.gains=true", "parametrization.zero_head=false")
"""nanoGPT's own parts, so that both multiply the same."""
CONTEXTS = (1024, 4096)
STEADY = 20
"""Updates after which nothing may be compiled any more."""
TURN_S = 0.25
"""About the length of a turn."""
ROUNDS = 5
GOALS_MFU = {12: 0.4, 20: 0.5, 28: 0.5}
"""By layers, on an H100 or H200: at least this share of the peak."""
PEER = "nanoGPT"


Burst = Callable[[int], float]
"""Makes so many updates and gives the loss of the last."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is measured at once: all models of it take turns."""

    depth: int
    """Layers, of 64 times as many units."""
    vocabulary: int
    """Tokens there are."""
    context: int
    """Tokens of a sequence."""
    compiled: bool
    """Whether the models are."""

    @property
    def rows(self) -> int:
        """Of an update: as many as keep a large GPU busy and fit its memory."""
        return max(1, (32768 if self.depth <= 12 else 16384) // self.context)

    @property
    def name(self) -> str:
        mode = mode_name(self.compiled)
        return f"{64 * self.depth}x{self.depth}, {self.vocabulary}, {self.context}, {mode}"


def shapes(setting: Setting) -> list[Shape]:
    """In order of importance: compiled before eager, the usual vocabulary and context before others."""
    if setting.quick:
        return [Shape(depth, vocabularies(True)[0], 64, False) for depth in setting.depths]
    usual, large = vocabularies()
    sizes = [(usual, CONTEXTS[0]), (usual, CONTEXTS[1]), (large, CONTEXTS[0]), (large, CONTEXTS[1])]
    order = [(sizes[0], True), (sizes[0], False), (sizes[1], True), (sizes[2], True), (sizes[3], True)]
    order += [(size, False) for size in sizes[1:]]
    return [
        Shape(depth, vocabulary, context, compiled)
        for (vocabulary, context), compiled in order
        for depth in setting.depths
    ]


def rows(setting: Setting) -> Iterator[Row]:
    if setting.peer is None:
        yield Row(PEER, "skipped", "--peer names no checkout of it")
    cases: list[Case] = [(shape.name, partial(measure, setting, shape)) for shape in shapes(setting)]
    yield from each(setting, cases)


def makers(setting: Setting, shape: Shape) -> dict[str, Callable[[], tuple[Model | None, Burst]]]:
    """By name what makes a model and its bursts; the peer is none of our models."""
    from sweepctl.spec.execution import Execution

    rows = 2 if setting.quick else shape.rows
    corpus = random_tokens(setting.home, shape.vocabulary)
    execution = Execution(device=setting.device, compile=shape.compiled)
    size = rung(shape.depth, shape.context, rows)

    def ours(*overrides: str) -> tuple[Model, Burst]:
        built = model(corpus, [*size, *overrides], execution)
        return built, built.updates

    makers: dict[str, Callable[[], tuple[Model | None, Burst]]] = {"ours, gpt2": partial(ours, *GPT2)}
    if shape.compiled or setting.quick:  # the demo's decoder, without a peer of its own
        makers["ours"] = ours
    if setting.peer:
        makers[PEER] = lambda: (None, _peer(setting, shape, rows))
    return makers


def _peer(setting: Setting, shape: Shape, rows: int) -> Burst:
    from benchmarks.nanogpt import update_of

    dimensions = (64 * shape.depth, shape.depth, shape.depth)
    update = update_of(
        Path(setting.peer or ""), dimensions, rows, shape.context, shape.vocabulary,
        setting.device, True, shape.compiled,
    )  # fmt: skip

    def burst(count: int) -> float:
        for _ in range(count - 1):
            update()
        return float(update())

    return burst


def measure(setting: Setting, shape: Shape) -> Iterator[Row]:
    """A row a model, then whether anything was compiled late."""
    from sweepctl.train.compilation import compilations

    try:
        built = {name: make() for name, make in makers(setting, shape).items()}
        bursts = {name: burst for name, (_, burst) in built.items()}
        ours = {name: each_model for name, (each_model, _) in built.items() if each_model is not None}
        for burst in bursts.values():  # compilation, and the allocator's first meetings
            burst(3)
        slowest = max(once(partial(burst, 2)) / 2 for burst in bursts.values())
        inner = 1 if setting.quick else max(1, min(50, round(TURN_S / slowest)))
        if shape.compiled:
            for each_model in ours.values():
                each_model.updates(STEADY - 5)
        before = compilations()
        rounds = 2 if setting.quick else ROUNDS
        actions = [partial(burst, inner) for burst in bursts.values()]
        seconds = [[s / inner for s in times] for times in take_turns(actions, rounds)]
        late = compilations() - before
        yield from _compared(setting, shape, ours, dict(zip(bursts, seconds, strict=True)))
    finally:
        built, ours, bursts, actions = {}, {}, {}, []
        forget()
    if shape.compiled:
        says = f"{late} compilations after step {STEADY}"
        yield Row(f"{shape.name}: recompilation", "fails" if late else "holds", says, {"late": late})


def _compared(
    setting: Setting, shape: Shape, ours: dict[str, Model], times: dict[str, list[float]]
) -> Iterator[Row]:
    tokens = next(iter(ours.values())).batch_tokens
    of_peer = times.get(PEER)
    for name, seconds in times.items():
        tokens_per_s = tokens / sorted(seconds)[len(seconds) // 2]
        figures: dict[str, Any] = {"tokens_per_s": round(tokens_per_s), "rows": tokens // shape.context}
        says = f"{tokens_per_s:,.0f} tokens/s"
        trainer = ours[name if name in ours else "ours, gpt2"].trainer
        peak, flops = trainer.machine.peak_flops, trainer.flops_per_token
        mfu = tokens_per_s * flops / peak if peak else None
        goals: list[bool] = []
        if mfu is not None:
            figures["mfu"] = round(mfu, 4)
            says += f", {mfu:.1%} MFU"
            if name != PEER and shape.compiled and (goal := GOALS_MFU.get(shape.depth)) is not None:
                goals.append(mfu >= goal)
                says += f" (goal {goal:.0%})"
        if of_peer is not None and name != PEER:
            middle, low, high = ratio(of_peer, seconds)
            figures["over_nanogpt"] = [round(value, 3) for value in (middle, low, high)]
            says += f", {middle:.2f}x {PEER} ({low:.2f} to {high:.2f})"
            if name == "ours, gpt2" and shape.compiled:
                goals.append(middle >= 1.0)
        verdict = "figure" if not goals else "holds" if all(goals) else "fails"
        yield Row(f"{shape.name}, {name}", verdict, says, figures)  # type: ignore[arg-type]
