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
from sweepctl.train.batches import Batches
from sweepctl.train.device import machine
from sweepctl.train.distributed import Alone, Command, Lost, Team, connect
from sweepctl.train.trainer import Trainer


def told(manifest: Manifest, execution: Execution, start: Checkpoint | None) -> dict[str, Any]:
    """What a follower needs to stand where rank 0's trainer stands: rank 0 has judged and verified it all."""
    return {
        "run": dataclasses.replace(manifest, execution=execution).record(),
        "start": None if start is None else {"path": str(start.path), "step": start.step},
    }


def follow(team: Team) -> None:
    """Do what rank 0 does, until it ends.

    Raises:
        Lost: rank 0 or another process is gone.
    """
    trainer: Trainer | None = None
    while True:
        command, first, second = team.hear()
        if command is Command.JOB:
            trainer = None  # its memory first
            with team.doing(command):
                trainer, curve = _trainer(team, team.told(first))
        elif command is Command.UPDATE:
            assert trainer is not None
            trainer.update(curve)
        elif command is Command.EVALUATE:
            assert trainer is not None
            trainer.evaluate(trainer.batches.index.held_out[first], second)
        elif command is Command.END_OF_JOB:
            trainer = None
            team.end_job()
        else:
            team.end()
            return


def _trainer(team: Team, told: dict[str, Any]) -> tuple[Trainer, LearningRateCurve]:
    manifest = Manifest.read(told["run"])
    science, execution = manifest.job_science(), manifest.execution
    where = machine(execution, science.point.precision, team.local_rank)
    trainer = Trainer(science.point, Batches(Path(manifest.data), science.point), where, execution, team)
    if told["start"] is not None:
        trainer.load(Path(told["start"]["path"]), told["start"]["step"])
    trainer.share()
    return trainer, science.curve()


def main() -> int:
    """Follow until rank 0 ends; the exit code. A signal is rank 0's to heed: it saves first."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    team: Alone | None = None
    try:
        team = connect()
        assert isinstance(team, Team)
        follow(team)
    except Lost as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if isinstance(team, Team):
            team.leave_word(error)
        print(error if isinstance(error, SweepctlError) else traceback.format_exc(), file=sys.stderr)
        return 1
    return 0
