"""One job from claim to result: where it starts, when it checkpoints, how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sweepctl
from sweepctl.errors import MachineFailed, RequestError, StorageError, SweepctlError
from sweepctl.resources import code_version
from sweepctl.spec.build import plain
from sweepctl.spec.execution import Execution
from sweepctl.spec.science import NUMERICS, JobScience
from sweepctl.store import attempts, checkpoints, retention, speeds
from sweepctl.store.attempts import Attempt
from sweepctl.store.ends import End
from sweepctl.store.facts import Origin
from sweepctl.store.files import TRANSIENT, refusal
from sweepctl.store.job import JobFolder
from sweepctl.store.manifest import Manifest
from sweepctl.store.protocol import Progress, Saved
from sweepctl.train.follower import follower_message
from sweepctl.train.interface import Assignment
from sweepctl.train.loop import Diverged, Loop, Stopped, Superseded
from sweepctl.train.processes import ProcessesLost, SingleProcess, device_failed, out_of_memory
from sweepctl.train.registry import trainer_named

Report = Callable[[Progress | Saved], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    why: End
    """The word on its record."""
    message: str = ""
    """What is to be said of it: an error's sentence or last lines."""
    owns_job: bool = False
    """Whether not even its end could be recorded: then only the end of this process gives the job up."""


def run(
    manifest: Manifest, stop: threading.Event, report: Report, processes: SingleProcess | None = None
) -> Outcome:
    """Execute a job until it is done, it is told to stop, or it cannot go on.

    Every outcome but `busy` is recorded on the attempt. Nothing raised here is lost: an unexpected
    exception is a `failed` attempt with its last lines.
    """
    folder = manifest.job_folder()
    while True:
        try:
            science = _checked(manifest)
            folder = dataclasses.replace(folder, end=science.anneal.end if science.anneal else None)
            if folder.has_result():
                return Outcome(End.DONE, "it has a result already")
            attempt = attempts.claim(folder, _facts(manifest), manifest.was_given_up)
        except SweepctlError as error:
            return Outcome(_end_of(error), str(error))
        if attempt is None:
            return Outcome(End.BUSY, "another process owns it")
        with attempts.renewed(attempt):
            outcome = _attempt(manifest, science, folder, attempt, stop, report, processes or SingleProcess())
        try:
            attempt.end(outcome.why, **({"error": outcome.message} if outcome.message else {}))
        except StorageError as error:
            return Outcome(End.STORAGE, str(error), owns_job=True)
        speeds.note(folder, science.kind, science.point, attempt.facts)
        try:
            # A wish made while the trunk was finishing is seen here, after ownership was given up: whoever
            # made it saw a living owner and started nobody.
            if science.kind != "trunk" or outcome.why is not End.DONE or _next_wish(folder) is None:
                return outcome
        except StorageError as error:
            return Outcome(End.STORAGE, str(error))


def _attempt(
    manifest: Manifest,
    science: JobScience,
    folder: JobFolder,
    attempt: Attempt,
    stop: threading.Event,
    report: Report,
    processes: SingleProcess,
) -> Outcome:
    try:
        if folder.has_result():  # somebody finished it between our look and our claim
            return Outcome(End.DONE, "it has a result already")
        folder.write_record(manifest.science)
        checkpoints.sweep_scratch(folder)
        execution = _fitting(manifest.execution, folder, attempt)
        loop = _prepare(manifest, science, folder, attempt, execution, stop, report, processes)
        try:
            if science.kind == "trunk":
                return _train_trunk(loop, folder)
            return _train_to_result(loop, science, manifest, execution)
        finally:
            loop.close()
    except Stopped:
        return Outcome(End.STOPPED)
    except Superseded:
        return Outcome(End.SUPERSEDED, "a newer attempt owns the job")
    except ProcessesLost as error:
        return Outcome(error.why, str(error))
    except MachineFailed as error:
        return Outcome(End.INFRASTRUCTURE, str(error))
    except SweepctlError as error:
        return Outcome(_end_of(error), str(error))
    except Exception as error:
        if out_of_memory(error):
            return Outcome(End.OUT_OF_MEMORY, (str(error).strip().splitlines() or ["no memory"])[0])
        if isinstance(error, OSError) and error.errno in TRANSIENT:  # of a trainer's or a library's own files
            return Outcome(End.STORAGE, str(refusal(error, folder.path)))
        if device_failed(error):
            return Outcome(End.INFRASTRUCTURE, str(error).strip().splitlines()[0])
        return Outcome(End.FAILED, "".join(traceback.format_exc().splitlines(keepends=True)[-12:]))


def _end_of(error: SweepctlError) -> End:
    """The class of a failure that is told in one sentence."""
    if isinstance(error, StorageError):
        return End.STORAGE
    return End.REQUEST if error.exit_code == 2 else End.FAILED


def _fitting(execution: Execution, folder: JobFolder, attempt: Attempt) -> Execution:
    """The micro-batch halved after an attempt that ran out of memory, and kept so by the attempts after it:
    the global batch is the same."""
    for earlier in reversed(attempts.every(folder)):
        rows = earlier.facts.micro_batch_rows
        if earlier.number >= attempt.number or rows is None:
            continue
        if earlier.facts.why is End.OUT_OF_MEMORY:
            rows = next((d for d in range(rows // 2, 0, -1) if rows % d == 0), 1)
        elif not earlier.facts.lowered:
            return execution
        if isinstance(execution.micro_batch_rows, int) and execution.micro_batch_rows <= rows:
            return execution
        attempt.update(lowered=True)
        return dataclasses.replace(execution, micro_batch_rows=rows)
    return execution


def _checked(manifest: Manifest) -> JobScience:
    """The job's science: its folder may only ever hold what its name is a hash of, trained by these
    numerics. Nothing is written before that is sure."""
    science = manifest.job_science()
    if science.id != manifest.job:
        raise RequestError(
            f"Job {manifest.job} was given the science of {science.id}; its plan was changed or made by "
            "another version. Plan the sweep again."
        )
    if science.point.numerics != NUMERICS:
        raise RequestError(
            f"Job {manifest.job} was planned for numerics {science.point.numerics}, this version trains with "
            f"{NUMERICS}; its results would not be comparable. Plan the sweep again."
        )
    return science


def _prepare(
    manifest: Manifest,
    science: JobScience,
    folder: JobFolder,
    attempt: Attempt,
    execution: Execution,
    stop: threading.Event,
    report: Report,
    processes: SingleProcess,
) -> Loop:
    """The trainer at the newest checkpoint that can be used: the job's own, its trunk's, or none."""
    anneal, trunk = science.anneal, manifest.trunk()
    # A checkpoint at the end holds final weights only: the attempt that wrote it died before its result.
    start, source = checkpoints.newest(folder, anneal.end - 1 if anneal else None, own=True), folder
    if start is None and trunk is not None and anneal is not None:
        start, source = checkpoints.newest(trunk, anneal.cut), trunk
    origin = Origin(source.id, start.step, start.manifest()["attempt"]) if start is not None else None
    before = attempts.facts_of(source, origin.attempt) if origin is not None else None
    assignment = Assignment(science, Path(manifest.data), execution, before, processes)
    trainer = trainer_named(science.point.trainer).make(assignment)
    if start is not None:
        trainer.load(start.path, start.step)
    setup = trainer.setup()
    attempt.update(
        started_from=origin,
        start_step=trainer.step,
        start_tokens=trainer.step * science.point.batch.tokens,
        start_lr=science.point.optimizer.lr * science.curve().at(trainer.step),
        device=setup.device,
        device_kind=setup.device_kind,
        micro_batch_rows=setup.micro_batch_rows,
        gemm=setup.gemm,
        compiled=setup.compiled,
        cuda_graphs=setup.cuda_graphs,
        deterministic=setup.deterministic,
        loss_chunks=setup.loss_chunks,
        world_size=setup.processes,
        shard=setup.shard,
        counted_memory_bytes=setup.counted_memory_bytes,
        hosts=setup.hosts,
        versions=_versions() | trainer.versions(),
    )
    execution = dataclasses.replace(execution, shard=setup.shard)  # rank 0's memory decides for all
    if setup.micro_batch_rows is not None:  # and so it does for rows that fit
        execution = dataclasses.replace(execution, micro_batch_rows=setup.micro_batch_rows)
    if setup.compiled is not None:
        execution = dataclasses.replace(execution, compile=setup.compiled)
    if setup.deterministic is not None:
        execution = dataclasses.replace(execution, deterministic=setup.deterministic)
    with processes.job(follower_message(manifest, execution, start)):
        trainer.share()
    return Loop(
        trainer=trainer,
        science=science,
        execution=execution,
        folder=folder,
        attempt=attempt,
        parent=origin,
        stop=stop,
        report=report,
    )


def _train_trunk(loop: Loop, folder: JobFolder) -> Outcome:
    """Train to the last wish, saving a checkpoint at each. Wishes may be added meanwhile."""
    while True:
        wishes = folder.wishes()
        step = _next_wish(folder, loop.trainer.step)
        if step is None:
            break
        try:
            loop.train_to(step, pause=lambda wishes=wishes: folder.wishes() != wishes)  # type: ignore[misc]
        except Diverged as error:
            folder.write_result(error.result)
            return Outcome(End.DIVERGED, error.result.reason)
        if loop.trainer.step == step:
            loop.save()
    # Not at a cut only where wishes were withdrawn: whoever makes them again goes on from here.
    withdrawn = loop.trainer.step not in {wish.step for wish in folder.wishes()}
    if withdrawn:
        loop.save()
    retention.roll(folder, keep_newest=int(withdrawn))
    return Outcome(End.DONE)


def _train_to_result(loop: Loop, science: JobScience, manifest: Manifest, execution: Execution) -> Outcome:
    """Train a branch or a run to its end and write its result."""
    assert science.anneal is not None
    try:
        loop.train_to(science.anneal.end)
        result = loop.final_result(science.anneal.validation_tokens)
    except Diverged as error:
        result = error.result
    if result.is_done and execution.keep != "none":
        loop.save(weights_only=not manifest.final_state, final=True)
    loop.check_owner()
    loop.folder.write_result(result)
    with contextlib.suppress(StorageError):  # what was to be deleted stays for `sweepctl clean`
        retention.settle(loop.folder, manifest.trunk(), execution.keep, manifest.trunk_needed)
    return Outcome(result.end, result.reason)


def _next_wish(folder: JobFolder, reached: int | None = None) -> int | None:
    """The first wished step that the trunk has neither saved nor passed."""
    if folder.has_result():
        return None
    if reached is None:
        reached = max(checkpoints.steps(folder), default=0)
    return next((wish.step for wish in retention.open_wishes(folder) if wish.step > reached), None)


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        **manifest.dispatch.record(),
        "execution": plain(manifest.execution),
        "versions": _versions(),
        "code": code_version(),
        "environment": sorted(name for name in os.environ if name.startswith(("SLURM_", "CUDA_", "OMP_"))),
    }


def _versions() -> dict[str, str]:
    return {"sweepctl": sweepctl.__version__, "python": platform.python_version()}
