"""Line 4: every architecture, optimizer and parametrization for a few steps in bf16, eager and compiled, held
against fp32. What is most at risk comes first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.gpu.corpora import data
from benchmarks.gpu.models import forget, model
from benchmarks.gpu.setting import Case, Row, Setting, each
from tests.train.architectures import CHOICES, pairwise

if TYPE_CHECKING:
    from sweepctl.spec.execution import Execution

STEPS = 5
BOUND = 0.02
"""By how much of it a loss in bf16 may differ from fp32's."""
MODELS = ("decoder", "moe", "linear", "hybrid", "moe_deepseek", "llama3", "gpt2", "qwen3", "llama")
OPTIMIZERS = ("adamw", "muon", "lion", "sgd")
PARAMETRIZATIONS = (
    *("mup", "standard", "completep", "spectral", "minicpm", "cerebras", "mutransfer", "depth_dial"),
)
SHAPE = "{d_model: 192, n_layers: 2, n_heads: 12, d_ff: 768}"
SMALL = "{d_model: 48, n_layers: 2, n_heads: 12, d_ff: 96}"
SIZE = ("ladder.depths=[]", "ladder.aspect=null", "ladder.head_size=null", "ladder.d_ff_ratio=null")
SIZE += ("batch.tokens=1024", "batch.context=128")
OWN = {"hybrid": ("model.mixers=[linear,softmax]",)}
"""Overrides without which a model would not be itself in two layers."""
STARVED = ("model=moe_deepseek", "batch.tokens=16", "batch.context=16")
"""Sixteen tokens for 64 experts: most see none."""


def rows(setting: Setting) -> Iterator[Row]:
    yield from each(setting, _cases(setting))


def _cases(setting: Setting) -> Iterator[Case]:
    """In order of importance."""
    compiled = [(name, "adamw", "mup") for name in MODELS]
    compiled += [(name, "muon", "mup") for name in ("decoder", "moe")] + [("decoder", "lion", "mup")]
    if setting.quick:
        compiled = [("moe", "muon", "mup"), ("linear", "adamw", "spectral")]
    yield "attention's kernel", partial(_kernel, setting)
    for dirty in (False, True):
        yield "experts without tokens", partial(_starved, setting, dirty)
    for triple in compiled:
        yield ", ".join(triple), partial(_hold, setting, ", ".join(triple), _overrides(*triple), True)
    if setting.quick:
        return
    kinds = {"model": MODELS, "optimizer": OPTIMIZERS, "parametrization": PARAMETRIZATIONS}
    for row in pairwise(kinds):
        what = ", ".join(row.values())
        yield what, partial(_hold, setting, what, _overrides(*row.values()), False)
    for is_compiled in (False, True):
        for choice in pairwise(CHOICES):
            what = " ".join(str(value) for value in choice.values())
            changes = tuple(f"model.{key}={_value(value)}" for key, value in choice.items())
            yield what, partial(_hold, setting, what, changes, is_compiled)


def _overrides(name: str, optimizer: str, parametrization: str) -> tuple[str, ...]:
    groups = (f"model={name}", f"optimizer={optimizer}", f"parametrization={parametrization}")
    return (*groups, *OWN.get(name, ()))


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _execution(setting: Setting, compiled: bool) -> Execution:
    from sweepctl.spec.execution import Execution

    return Execution(device=setting.device, compile=compiled)


def _losses(
    setting: Setting, overrides: Sequence[str], precision: str, compiled: bool, steps: int = STEPS
) -> list[float]:
    """Losses of so many steps, and of an eager model the held-out loss after them."""
    shape = f"ladder.table=[{SMALL if setting.quick else SHAPE}]"
    everything = [shape, *SIZE, *overrides, f"precision={precision}"]
    ours = model(data(setting.home) / "pysrc", everything, _execution(setting, compiled))
    losses = ours.losses(steps)
    return losses if compiled else [*losses, ours.trainer.evaluate("validation", 2048)]


def _hold(setting: Setting, what: str, overrides: Sequence[str], compiled: bool) -> Iterator[Row]:
    """bf16 eager, and where asked compiled, against fp32 eager."""
    from sweepctl.errors import RequestError

    try:
        reference = _losses(setting, overrides, "fp32", False)
    except RequestError as error:
        yield Row(what, "skipped", f"is no combination: {error}")
        return
    ways = [(False, "bf16, eager")]
    if compiled and not setting.quick:
        ways.append((True, "bf16, compiled"))
    for is_compiled, way in ways:
        yield _compared(f"{what}, {way}", _losses(setting, overrides, "bf16", is_compiled), reference)
    forget()


def _compared(what: str, losses: list[float], reference: list[float]) -> Row:
    shares = [abs(a - b) / max(1.0, abs(b)) for a, b in zip(losses, reference, strict=False)]
    sound = all(math.isfinite(loss) for loss in losses)
    verdict = "holds" if sound and max(shares) <= BOUND else "fails"
    says = f"losses within {max(shares):.2%} of fp32's" if sound else f"a loss is not finite: {losses}"
    return Row(what, verdict, says, {"losses": losses, "fp32_losses": reference})


def _starved(setting: Setting, dirty: bool) -> Iterator[Row]:
    """Experts that get no token, also where memory that is handed out anew is full of NaN: a grouped product
    must leave no row, and no gradient, as it lay there."""
    what = "experts without tokens" + ", memory full of NaN" * dirty
    steps = 10
    reference = _losses(setting, STARVED, "fp32", False, steps)
    if dirty:
        _spoil(setting)
    yield _compared(what, _losses(setting, STARVED, "bf16", False, steps), reference)


def _spoil(setting: Setting) -> None:
    """Fill memory that torch's allocator keeps and hands out next."""
    import torch

    spoilt = [torch.full((size,), float("nan"), device=setting.device) for size in (2**26, 2**22)]
    spoilt += [torch.full((2**14,), float("nan"), device=setting.device) for _ in range(200)]
    del spoilt


def _kernel(setting: Setting) -> Iterator[Row]:
    """Attention in bf16 where the kernel that writes out all scores is not allowed."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if not setting.on_gpu:
        yield Row("attention's kernel", "skipped", "needs a GPU")
        return
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    for name in ("decoder", "llama3"):
        with sdpa_kernel(fused):
            loss = _losses(setting, (f"model={name}",), "bf16", False, 2)[-1]
        yield Row(f"attention of {name}", "holds", f"takes a fused kernel (held-out loss {loss:.3f})")
