"""What is added most often touches few files: the table in docs/design.md, held against the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 3
"""Files of a new thing, beside its page and its test."""
CODE_WORDS = {"batch": {"BatchLauncher", "BatchSettings", "kind:batch"}}
"""What an example is called in code, where its own name is a word for other things too."""


def table() -> dict[str, tuple[str, list[str]]]:
    """What is added -> an example of it, and its files."""
    text = (ROOT / "docs" / "design.md").read_text()
    _, _, section = text.partition("\n## Adding\n")
    section, _, _ = section.partition("\n## ")
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| a")]
    return {kind: (example, files.split(", ")) for kind, example, files in rows}


def words(path: Path) -> set[str]:
    """What code names: modules, definitions, attributes, and strings that are not prose; and `key:value` of
    what is set to a string, or compared with one."""
    if path.suffix == ".yaml":
        lines = [line.partition("#")[0].replace(" ", "") for line in path.read_text().splitlines()]
        return {*lines, *(word for line in lines for word in re.findall(r"\w+", line))}
    names: list[str] = []
    pairs: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import() | ast.ImportFrom():
                names += [alias.name for alias in node.names]
                names.append(getattr(node, "module", None) or "")
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Attribute(attr=name):
                names.append(name)
            case ast.Constant(value=str(text)) if not re.search(r"\s", text):
                names.append(text)
            case (
                ast.keyword(arg=key, value=ast.Constant(str(text)))
                | ast.AnnAssign(target=ast.Name(key), value=ast.Constant(str(text)))
                | ast.Compare(ast.Attribute(attr=key) | ast.Name(key), comparators=[ast.Constant(str(text))])
            ):
                pairs.add(f"{key}:{text}")
    return pairs | {word for name in names for word in re.findall(r"\w+", name)}


def files_of(example: str) -> list[str]:
    """The files that are called like it or whose code names it."""
    called = CODE_WORDS.get(example, {example})
    files = [
        path
        for folder, suffix in (("sweepctl", "py"), ("conf", "yaml"), ("launchers", "yaml"))
        for path in (ROOT / folder).rglob(f"*.{suffix}")
    ]
    return sorted(str(p.relative_to(ROOT)) for p in files if p.stem == example or called & words(p))


def test_the_design_shows_every_room_and_its_doors() -> None:
    text = (ROOT / "docs" / "design.md").read_text().partition("## Adding")[0]
    rooms = dict(re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", text, re.MULTILINE))
    assert set(rooms) == {path.parent.name for path in (ROOT / "sweepctl").glob("*/__init__.py")}
    for room, doors in rooms.items():
        trees = [ast.parse(path.read_text()) for path in (ROOT / "sweepctl" / room).rglob("*.py")]
        classes = {node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
        assert {*re.findall(r"\w+", doors)} <= classes


def test_the_design_names_files_that_are_there() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    files = set(re.findall(r"\b[a-z_]+/[a-z_/]+\.(?:py|yaml)\b", text))
    assert len(files) > 10
    assert not {file for file in files if not ((ROOT / file).exists() or (ROOT / "sweepctl" / file).exists())}


def test_the_table_has_every_kind() -> None:
    kinds = ["a schedule", "an optimizer", "a law", "a parametrization", "a launcher", "a command"]
    assert sorted(table()) == sorted(kinds)


@pytest.mark.parametrize("kind", table())
def test_adding_touches_what_the_table_says(kind: str) -> None:
    example, files = table()[kind]
    assert files_of(example) == sorted(files) and len(files) <= MOST


def test_an_example_is_told_from_its_like(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text('"""About lion."""\nlion_rate = "the lion, in prose"  # lion\n')
    assert "lion" not in words(code)
    code.write_text("from optimizers import lion")
    assert "lion" in words(code)
    code.write_text('kind: str = "optimizer.name=lion"')
    assert "lion" in words(code)
    code.write_text('batch = 1 if launcher.kind == "batch" else study.batch')
    assert "kind:batch" in words(code)
