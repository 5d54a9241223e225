from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sweepctl.collect.tables import collect
from sweepctl.store.board import Board
from sweepctl.store.workspace import Workspace
from tests.conftest import run_all


@pytest.fixture
def undisturbed(tmp_path: Path) -> Callable[[Board], bytes]:
    """The runs.parquet of a board's plans, trained in another workspace by one process."""

    def train(board: Board) -> bytes:
        other = Workspace(tmp_path / "undisturbed")
        shutil.copytree(board.sweep.workspace.root / "data", other.root / "data", dirs_exist_ok=True)
        sweep = other.sweep(board.sweep.name)
        sweep.save(board.plans)
        run_all(Board(sweep, sweep.plans()))
        collect(Board(sweep, sweep.plans()))
        return (sweep.folder / "runs.parquet").read_bytes()

    return train
