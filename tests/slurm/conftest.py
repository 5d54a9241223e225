"""A real Slurm for the tests that need one; without one they are skipped, loudly, or fail in CI."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import Planner, Undisturbed
from tests.store.test_storage import small  # noqa: F401

from .cluster import OnSlurm

ROOT = Path(__file__).parent.parent.parent


def load_box() -> ModuleType:
    spec = importlib.util.spec_from_file_location("box", ROOT / "launchers" / "slurmbox" / "box.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["box"] = module
    spec.loader.exec_module(module)
    return module


BOX = load_box()


def missing(programs: tuple[str, ...]) -> list[str]:
    return [name for name in programs if shutil.which(name, path=BOX.search_path()) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("NEED_SLURM"):
        return
    slurm, accounting = missing(BOX.PROGRAMS), missing(BOX.accounting.PROGRAMS)
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            lacks = slurm + (accounting if item.path.name in ("test_accounting.py", "test_limits.py") else [])
            if lacks:
                reason = f"no Slurm here ({', '.join(lacks)}): `make slurm-install` installs it"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A box of three nodes, shared by the tests."""
    box = BOX.Box(tmp_path_factory.mktemp("slurm") / "box", nodes=3)
    box.up()
    yield box
    box.down()


@pytest.fixture(scope="session")
def accounting_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A box of one node with accounting and a small MaxArraySize, shared by the tests."""
    box = BOX.Box(
        tmp_path_factory.mktemp("accounting") / "box", nodes=1, settings="MaxArraySize=101", accounting=True
    )
    box.up()
    yield box
    box.down()


@pytest.fixture
def on_slurm(
    box: Any,
    planned: Planner,
    undisturbed: Undisturbed,
) -> Any:
    """Plan a study and put it on the box: on_slurm(settings, **changes of the study)."""
    planned_sweeps: list[OnSlurm] = []

    def plan(settings: dict[str, Any] | None = None, **changes: Any) -> OnSlurm:
        sweep = OnSlurm(box, planned(**changes), undisturbed, **(settings or {}))
        planned_sweeps.append(sweep)
        return sweep

    yield plan
    for sweep in planned_sweeps:
        sweep.ask("scancel", *sweep.tasks()) if sweep.tasks() else None
