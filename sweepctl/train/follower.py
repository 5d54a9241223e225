"""A process of a job that is not rank 0: it mirrors rank 0's trainer, and touches nothing but its memory."""

from __future__ import annotations

import dataclasses
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from sweepctl.errors import SweepctlError
from sweepctl.spec.execution import Execution
from sweepctl.spec.learning_rate import LearningRateCurve
from sweepctl.store.checkpoints import Checkpoint
from sweepctl.store.manifest import Manifest
from sweepctl.train.distributed import ProcessGroup, connect
from sweepctl.train.interface import Assignment, Trainer
from sweepctl.train.processes import Command, ProcessesLost, SingleProcess
from sweepctl.train.registry import trainer_named


def follower_message(manifest: Manifest, execution: Execution, start: Checkpoint | None) -> dict[str, Any]:
    """What a follower needs to stand where rank 0's trainer stands: rank 0 has judged and verified it all."""
    return {
        "run": dataclasses.replace(manifest, execution=execution).record(),
        "start": None if start is None else {"path": str(start.path), "step": start.step},
    }


def follow(group: ProcessGroup) -> None:
    """Do what rank 0 does, until it ends.

    Raises:
        ProcessesLost: rank 0 or another process is gone.
    """
    trainer: Trainer | None = None
    while True:
        command, first, second = group.next_command()
        if command is Command.JOB:
            trainer = None  # its memory first
            with group.together(command):
                trainer, curve = _trainer(group, group.job_message(first))
        elif command is Command.UPDATE:
            assert trainer is not None
            trainer.update(curve)
        elif command is Command.EVALUATE:
            assert trainer is not None
            trainer.evaluate(trainer.held_out[first], second)
        elif command is Command.SAVE:
            assert trainer is not None
            trainer.hand_over()
        elif command is Command.END_OF_JOB:
            trainer = None
            group.end_job()
        else:
            group.end()
            return


def _trainer(group: ProcessGroup, message: dict[str, Any]) -> tuple[Trainer, LearningRateCurve]:
    manifest = Manifest.read(message["run"])
    science = manifest.job_science()
    assignment = Assignment(science, Path(manifest.data), manifest.execution, processes=group)
    trainer = trainer_named(science.point.trainer).make(assignment)
    if message["start"] is not None:
        trainer.load(Path(message["start"]["path"]), message["start"]["step"])
    trainer.share()
    return trainer, science.curve()


def main() -> int:
    """Follow until rank 0 ends; the exit code. A signal is rank 0's to heed: it saves first."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    group: SingleProcess | None = None
    try:
        group = connect()
        assert isinstance(group, ProcessGroup)
        follow(group)
    except ProcessesLost as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if isinstance(group, ProcessGroup):
            group.report_failure(error)
        print(error if isinstance(error, SweepctlError) else traceback.format_exc(), file=sys.stderr)
        return 1
    return 0
