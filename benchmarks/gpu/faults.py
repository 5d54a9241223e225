"""Line 2: a GPU that is really out of memory, SIGTERM in a compiled step and what goes on, divergence."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu.corpora import BYTES, data
from benchmarks.gpu.models import BUDGET, rung
from benchmarks.gpu.setting import Case, Row, Setting, Verdict, each

if TYPE_CHECKING:
    from sweepctl.store.attempts import Attempt
    from sweepctl.store.sweep_jobs import PlannedJob

RUN = (
    "schedule=cosine",
    "schedule.warmup_steps=5",
    "validation.curve_per_octave=0",
    "validation.tokens=4096",
)
"""One job a sweep: a run from start to end."""
SAME_NATS = 0.02
"""By how much a resumed run may end beside an undisturbed one, where bits differ."""
PATIENCE_S = 100.0


def rows(setting: Setting) -> Iterator[Row]:
    cases: list[Case] = [
        ("out of memory", partial(_out_of_memory, setting)),
        ("SIGTERM", partial(_terminated, setting)),
        ("divergence", partial(_diverges, setting)),
    ]
    yield from each(setting, cases)


def planned(home: Path, name: str, corpus: str, overrides: Sequence[str]) -> PlannedJob:
    """The job of a sweep of one, in the workspace `home`."""
    from sweepctl.data.shards import read_index
    from sweepctl.plan.expand import expand
    from sweepctl.spec.compose import compose_study
    from sweepctl.store.sweep_jobs import SweepJobs
    from sweepctl.store.workspace import Workspace

    workspace = Workspace(home)
    source = ["data=prepared", f"data.name={corpus}"] if corpus != "pysrc" else []
    study = compose_study([*BUDGET, *RUN, f"name={name}", *source, *overrides])
    sweep = workspace.sweep(name)
    sweep.save({"all": expand(study, "all", read_index(workspace.corpus(corpus)).facts)})
    [planned_job] = SweepJobs(sweep, sweep.plans()).by_id.values()
    return planned_job


def _launch(setting: Setting, home: Path, name: str, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sweepctl", "launch", name, "workers=1", "watchdog_min=null"]
    command += [f"execution.device={setting.device}", *overrides]
    environment = {**os.environ, "SWEEPCTL_HOME": str(home)}
    return subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr, text=True, env=environment)


def _attempts(planned_job: PlannedJob) -> list[Attempt]:
    from sweepctl.store import attempts

    return attempts.every(planned_job.folder)


def _ends(planned_job: PlannedJob) -> list[str]:
    return [str(attempt.facts.why) for attempt in _attempts(planned_job)]


def _out_of_memory(setting: Setting) -> Iterator[Row]:
    """A batch whose activations are larger than the card in one piece: it is halved until it fits."""
    context, rows = 1024, 4
    if setting.on_gpu:
        import torch

        # About 40 bytes a unit of a layer are kept of a token in bf16, eager: 92 kB of 6 layers of 384.
        memory_bytes = torch.cuda.get_device_properties(0).total_memory
        rows = 1 << (int(1.3 * memory_bytes / (40 * 6 * 384)) // context).bit_length()
    size = [*rung(6, context, rows), "schedule.warmup_steps=1"]
    planned_job = planned(
        setting.home, "memory", f"tokens-{BYTES}", [*size, f"budget.tokens=[{2 * rows * context}]"]
    )
    if not setting.on_gpu:
        yield Row("out of memory", "skipped", "needs a GPU")
        return
    options = ("execution.compile=false", "execution.micro_batch_rows=null", "retries.out_of_memory=8")
    launch = _launch(setting, setting.home, "memory", *options)
    launch.wait(PATIENCE_S)
    pieces = [attempt.facts.micro_batch_rows for attempt in _attempts(planned_job)]
    ends = _ends(planned_job)
    pairs = itertools.pairwise(pieces)
    halved = all(earlier and later and later * 2 == earlier for earlier, later in pairs)
    good = halved and len(ends) > 1 and ends[-1] == "done" and set(ends[:-1]) == {"out_of_memory"}
    says = f"attempts of {pieces} rows at once ended {', '.join(ends)}"
    yield Row("out of memory", _verdict(good), says, {"rows": pieces, "ends": ends})


def _terminated(setting: Setting) -> Iterator[Row]:
    """A signal in the middle of compiled training: it saves, and a later launch goes on from there."""
    steps = 100_000 if setting.quick else 2000
    size = ["ladder.depths=[2]", "precision=fp32", f"budget.tokens=[{256 * steps}]"]
    compiled = f"execution.compile={str(setting.modes[0]).lower()}"
    stopped = planned(setting.home, "stopped", "pysrc", size)
    launch = _launch(setting, setting.home, "stopped", compiled)
    step = _wait_for_step(stopped, launch)
    launch.send_signal(signal.SIGTERM)
    launch.wait(PATIENCE_S)
    ends, reached = _ends(stopped), _attempts(stopped)[-1].facts.end_step
    saved = sorted(path.name for path in (stopped.folder.path / "checkpoints").glob("step-*"))
    good = ends == ["stopped"] and saved != [] and int(saved[-1].removeprefix("step-")) == reached
    says = f"sent at step {step}: attempt {', '.join(ends)} at step {reached}, checkpoint {', '.join(saved)}"
    yield Row("SIGTERM", _verdict(good), says, {"ends": ends, "checkpoints": saved})
    if setting.quick:
        yield Row("resume", "skipped", "takes too long")
        return
    yield _resumed(setting, stopped, size, compiled)


def _resumed(setting: Setting, stopped: PlannedJob, size: Sequence[str], compiled: str) -> Row:
    """What goes on from a stop beside a run that nobody stopped, in a store of its own."""
    elsewhere = setting.home / "undisturbed"
    elsewhere.mkdir()
    data(elsewhere).symlink_to(data(setting.home))
    undisturbed = planned(elsewhere, "undisturbed", "pysrc", size)
    launches = [_launch(setting, setting.home, "stopped", compiled)]
    launches.append(_launch(setting, elsewhere, "undisturbed", compiled))
    for launch in launches:
        launch.wait(PATIENCE_S)
    ends, losses = _ends(stopped), [_loss(job) for job in (stopped, undisturbed)]
    apart = abs(losses[0] - losses[1])
    good = ends == ["stopped", "done"] and apart <= SAME_NATS
    says = f"attempts ended {', '.join(ends)}; {apart:.2g} nats from a run that nobody stopped"
    return Row("resume", _verdict(good), says, {"ends": ends, "losses": losses})


def _loss(planned_job: PlannedJob) -> float:
    """The held-out loss of its result, not a number where it has none."""
    result = planned_job.folder.result()
    return result.loss_nats["validation"] if result is not None else math.nan


def _verdict(holds: bool) -> Verdict:
    return "holds" if holds else "fails"


def _wait_for_step(planned_job: PlannedJob, launch: subprocess.Popen[str]) -> int:
    """The first step that the running attempt tells of.

    Raises:
        RuntimeError: it ended before.
    """
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and launch.poll() is None:
        for attempt in _attempts(planned_job):
            if (step := int(attempt.progress().get("step") or 0)) > 0:
                return step
        time.sleep(0.05)
    raise RuntimeError(f"it was over before it was told to stop: {_ends(planned_job)}")


def _diverges(setting: Setting) -> Iterator[Row]:
    """A rate beyond all bounds."""
    size = ["ladder.depths=[2]", "precision=bf16", "budget.tokens=[25600]", "optimizer.lr=1e30"]
    planned_job = planned(setting.home, "diverges", "pysrc", size)
    _launch(setting, setting.home, "diverges", "execution.compile=false").wait(PATIENCE_S)
    ends, result = _ends(planned_job), planned_job.folder.result()
    says = f"attempt {', '.join(ends)}: {result.reason if result else 'no result'}"
    good = ends == ["diverged"] and result is not None and bool(result.reason)
    yield Row("divergence", _verdict(good), says, {"ends": ends})
