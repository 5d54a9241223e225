from __future__ import annotations

from typing import Any

import pytest

from sweepctl.collect.tables import collect
from sweepctl.launch.launcher import Launcher, LaunchRequest, read_launcher
from sweepctl.launch.outcome import Submitted
from sweepctl.launch.retry import choose
from sweepctl.spec.compose import compose_launcher
from sweepctl.store.board import Board
from tests.conftest import Undisturbed

from .cluster import Cluster, stand_in

OVERRIDES = ("resources.gpus_per_node=null", "execution.device=cpu")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return stand_in(monkeypatch)


def slurm(*overrides: str) -> Launcher[Any]:
    """The launcher of launchers/slurm.yaml, changed for these tests."""
    return read_launcher("slurm", compose_launcher("slurm", [*OVERRIDES, *overrides]))


def launch(board: Board, *overrides: str, retry: str = "failed") -> Submitted:
    """Launch a board as the command does."""
    board = Board(board.sweep, board.sweep.plans())
    request = LaunchRequest(board, [], choose(board, [retry]))
    submitted = slurm(*overrides).launch(request, None)  # type: ignore[arg-type]
    assert isinstance(submitted, Submitted)
    return submitted


def same(board: Board, undisturbed: Undisturbed) -> bool:
    """Whether the sweep's table is that of an undisturbed one, byte for byte."""
    collect(board)
    return (board.sweep.folder / "runs.parquet").read_bytes() == undisturbed.runs(board)
