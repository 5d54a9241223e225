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
    """`shared` is for several: each of its modules is imported for two laws at least."""
    users: dict[str, set[str]] = {path.stem: set() for path in (ROOT / "shared").glob("[!_]*.py")}
    for path in ROOT.rglob("*.py"):
        law = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.ImportFrom("sweepctl.laws.shared", aliases):
                    modules = [alias.name for alias in aliases]
                case ast.ImportFrom(str(name)) if name.startswith("sweepctl.laws.shared."):
                    modules = [name.rpartition(".")[2]]
                case _:
                    continue
            for module in modules:
                users[module].add(law)
    assert not {module: laws for module, laws in users.items() if len(laws - {"shared"}) < 2}
