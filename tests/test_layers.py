"""Imports point one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sweepctl

ROOT = Path(sweepctl.__file__).parent
MAY_IMPORT = {
    "spec": set(),
    "laws": {"spec"},
    "plan": {"spec"},
    "store": {"spec", "plan"},
    "data": {"spec", "store"},
    "train": {"spec", "store", "data"},
    "launch": {"spec", "plan", "store", "data"},
    "collect": {"spec", "plan", "store"},
    "fitting": {"spec", "plan", "store", "laws", "collect"},
    "predict": {"spec", "plan", "store", "laws"},
    "check": {"spec", "plan", "store", "data", "train", "launch"},
    "report": {"spec", "plan", "store", "laws", "launch", "fitting", "predict", "check"},
    "cli": {
        "spec",
        "plan",
        "store",
        "data",
        "laws",
        "launch",
        "collect",
        "fitting",
        "predict",
        "check",
        "report",
    },
}
EVERYONE = {"errors", "resources", "__version__", "__init__"}
"""What lies outside the rooms."""


@dataclass(frozen=True)
class House:
    """A folder that others enter by its doors only."""

    folder: str
    """Below the package."""
    doors: tuple[str, ...] = ()
    """Modules that anyone may import."""
    guests: tuple[str, ...] = ()
    """Places outside that may import any: those that are of one kind with what is inside."""


HOUSES = [
    House("train", guests=("check/",)),
    House("launch/backends", doors=("__init__",)),
    House("launch/slurm", guests=("launch/backends/slurm.py",)),
    House("spec/schedules", doors=("schedule",)),
    House("spec/optimizers", doors=("optimizer",), guests=("train/optimizers/",)),
    House("spec/parametrizations", doors=("__init__", "table")),
    House(
        "laws",
        doors=("law", "fit", "observations", "registry", "holdout"),
        guests=("report/laws/", "predict/", "report/picture.py"),
    ),
    House("report/laws", doors=("__init__",), guests=("report/picture.py",)),
]
"""Where a kind is a module, the interface is the door: the kinds behind it are found by name."""
BUILT_IN = (
    "builtin",
    "batches",
    "compilation",
    "cross_entropy",
    "device",
    "grouped",
    "layers",
    "measurements",
    "model",
)
BUILT_IN = tuple(f"train/{name}" for name in (*BUILT_IN, "ops", "optimizer", "prefetch"))
"""The built-in trainer, by how its paths begin: of what lies beside it only the registry knows it."""


def modules() -> Iterator[Path]:
    return (path.relative_to(ROOT) for path in sorted(ROOT.rglob("*.py")))


def imports(path: Path) -> set[str]:
    """The package's modules that a module imports, late imports too, each by its path without suffix."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    inside = [name.split(".")[1:] for name in names if name.split(".")[0] == "sweepctl"]
    return {_module(parts) for parts in inside}


def _module(parts: list[str]) -> str:
    """The longest beginning of a dotted name that is a module."""
    for length in range(len(parts), 0, -1):
        place = "/".join(parts[:length])
        if (ROOT / f"{place}.py").exists():
            return place
        if (ROOT / place / "__init__.py").exists():
            return f"{place}/__init__"
    return "__init__"


def test_every_room_imports_only_what_lies_before_it() -> None:
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(MAY_IMPORT)
    for path in modules():
        room = path.parts[0]
        if room in rooms:
            targets = {name.split("/")[0] for name in imports(path)}
            assert targets <= MAY_IMPORT[room] | EVERYONE | {room}, path


@pytest.mark.parametrize("house", HOUSES, ids=lambda house: house.folder)
def test_a_house_is_entered_by_its_doors(house: House) -> None:
    doors = {f"{house.folder}/{door}" for door in house.doors}
    assert all((ROOT / f"{door}.py").exists() for door in doors)
    for path in modules():
        if not str(path).startswith((f"{house.folder}/", *house.guests)):
            inside = {name for name in imports(path) if name.startswith(f"{house.folder}/")}
            assert inside <= doors, path


def test_jobs_know_the_built_in_trainer_by_its_interface() -> None:
    for path in modules():
        if path.parts[0] == "train" and not str(path).startswith(BUILT_IN):
            inside = {name for name in imports(path) if name.startswith(BUILT_IN)}
            assert inside <= ({"train/builtin"} if path.name == "registry.py" else set()), path


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {str(path.with_suffix("")): imports(path) for path in modules()}
    TopologicalSorter(graph).prepare()


def test_only_the_trainer_imports_torch_and_only_laws_and_tables_numpy() -> None:
    for path in modules():
        text = (ROOT / path).read_text()
        assert path.parts[0] == "train" or "import torch" not in text, path
        if path.parts[0] in ("spec", "plan", "store", "launch"):
            assert "import numpy" not in text and "import pandas" not in text, path
