"""Imports point one way."""

from __future__ import annotations

import ast
from pathlib import Path

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
EVERYONE = {"errors", "resources", "__version__", ""}


def test_every_room_imports_only_what_lies_before_it() -> None:
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(MAY_IMPORT)
    wrong = []
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0]
        if room not in MAY_IMPORT:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name.split(".")[0] == "sweepctl":
                    target = [*name.split("."), ""][1]
                    if target not in MAY_IMPORT[room] | EVERYONE | {room}:
                        wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_only_the_trainer_imports_torch_and_only_laws_and_tables_numpy() -> None:
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0]
        text = path.read_text()
        assert room == "train" or "import torch" not in text, path
        if room in ("spec", "plan", "store", "launch"):
            assert "import numpy" not in text and "import pandas" not in text, path


def test_modules_stay_rooms() -> None:
    long = {p.name: n for p in ROOT.rglob("*.py") if (n := len(p.read_text().splitlines())) > 500}
    assert not long
