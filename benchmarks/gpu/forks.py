"""Line 1: whether branches, resumed runs and processes with cold compile caches end with the same bits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial

from benchmarks.gpu.setting import Case, Row, Setting, Verdict, each, mode_name
from benchmarks.gpu.traces import Trace, traces


def rows(setting: Setting) -> Iterator[Row]:
    yield from each(setting, _cases(setting))


def _cases(setting: Setting) -> Iterator[Case]:
    """First runs as they are, then with cold compile caches, then under deterministic algorithms."""
    precisions = ("fp32",) if setting.quick else ("fp32", "bf16")
    ways = [(precision, compiled) for compiled in reversed(setting.modes) for precision in precisions]
    for precision, compiled in ways:
        yield _case(setting, precision, compiled, False, False)
    if not setting.quick:
        yield _case(setting, "bf16", True, False, True)
        for precision in precisions:
            yield f"{precision}, cold caches", partial(_cold, setting, precision, False)
    for precision, compiled in ways:
        yield _case(setting, precision, compiled, True, False)
    if not setting.quick:
        for precision in precisions:
            yield f"{precision}, cold caches, deterministic", partial(_cold, setting, precision, True)
        yield _case(setting, "fp32", True, False, True)


def _case(setting: Setting, precision: str, compiled: bool, deterministic: bool, apart: bool) -> Case:
    what = f"check fork, {precision}, {mode_name(compiled)}"
    what += ", attempts apart" * apart + ", deterministic" * deterministic
    return what, partial(_fork, setting, what, precision, compiled, deterministic, apart)


def _fork(
    setting: Setting, what: str, precision: str, compiled: bool, deterministic: bool, apart: bool
) -> Iterator[Row]:
    """`apart` is a process for every attempt, with nothing compiled before."""
    from sweepctl.check.fork import check
    from sweepctl.data.shards import read_index
    from sweepctl.spec.compose import compose_study
    from sweepctl.spec.execution import Execution
    from sweepctl.store.workspace import Workspace

    workspace = Workspace(setting.home)
    study = compose_study([f"precision={precision}"])
    facts = read_index(workspace.corpus(study.data.name)).facts
    execution = Execution(device=setting.device, compile=compiled, deterministic=deterministic)
    steps = 8 if setting.quick else 40
    result = check(workspace, study, facts, None, steps, execution, lambda text: None, apart)
    yield Row(what, "holds" if result.holds else "fails", result.summary, result.record())


def _cold(setting: Setting, precision: str, deterministic: bool) -> Iterator[Row]:
    """Two processes, each of which compiles everything itself."""
    what = f"two processes with cold caches, {precision}" + ", deterministic" * deterministic
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as another:
        trace = Trace((f"precision={precision}",), 30, setting.device, True, deterministic)
        first, second = traces(setting, [trace, trace], [cache, another])
    exact = first.fingerprint == second.fingerprint
    off = max(abs(a - b) for a, b in zip(first.losses, second.losses, strict=True))
    says = "bit for bit the same" if exact else f"losses of 30 steps differ by up to {off:.2g} nats"
    verdict: Verdict = "holds" if exact else "fails" if deterministic else "figure"
    yield Row(what, verdict, says, {"exact": exact, "largest_loss_difference": off})
