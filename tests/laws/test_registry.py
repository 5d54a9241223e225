"""A law is its module, the module that draws it, its page, and one line of the registry."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import sweepctl.laws
from sweepctl.laws.registry import LAWS

ROOT = Path(sweepctl.laws.__file__).parent
DOCS = Path(__file__).parents[2] / "docs" / "laws"
OF_ALL = {"law", "fit", "observations", "registry", "holdout", "numerics", "shared", "__init__"}
"""What in `laws` is no law."""


def test_every_module_of_a_law_is_registered() -> None:
    modules = {
        path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {name.replace("-", "_") for name in LAWS} == modules - OF_ALL


@pytest.mark.parametrize("name", LAWS)
def test_every_law_is_drawn_and_has_its_page(name: str) -> None:
    module = importlib.import_module(f"sweepctl.report.laws.{name.replace('-', '_')}")
    assert callable(module.panels)
    assert (DOCS / f"{name}.md").is_file()


def test_what_one_law_alone_needs_lies_with_it() -> None:
    """`shared` is for several: each of its modules, and of `numerics`, is imported for two laws at least, but
    for methods that stand in textbooks."""
    users: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        law = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sweepctl.laws.shared"):
                modules = [node.module] if node.module != "sweepctl.laws.shared" else []
                modules += [f"{node.module}.{alias.name}" for alias in node.names] if not modules else []
                for module in modules:
                    users.setdefault(str(module).rpartition(".")[2], set()).add(law)
    modules = {path.stem for path in (ROOT / "shared").glob("*.py")} - {"__init__"}
    assert set(users) == modules
    assert all(len(laws) > 1 for laws in users.values()), users
