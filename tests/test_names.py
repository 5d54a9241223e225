"""Names say what they hold, and what is public is documented."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sweepctl

ROOT = Path(sweepctl.__file__).parent
EMPTY_NAMES = {"found", "made", "told", "known", "given", "one", "seen"}
"""They say that there is a value, not which."""
SAME_NAMES = {"Options", "Lion", "Muon", "Sgd"}
"""The options of a law, which the registry takes from each under one name; and an optimizer, its settings in
`spec` and its steps in `train`."""
SCREEN, MODULE = 55, 500
"""Lines of a function, and of a module."""

Rule = Callable[[ast.Module], Iterator[str]]
"""What breaks it in a module."""


def modules(root: Path = ROOT) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(root.rglob("*.py")):
        yield str(path.relative_to(root)), ast.parse(path.read_text())


def empty_names(module: ast.Module) -> Iterator[str]:
    """Variables, arguments, attributes, functions and classes that are called nothing in particular."""
    for node in ast.walk(module):
        match node:
            case (
                ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
                | ast.arg(arg=name)
                | ast.FunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
            ) if name.strip("_").lower() in EMPTY_NAMES:
                yield f"line {node.lineno}: {name}"


def undocumented_fields(module: ast.Module) -> Iterator[str]:
    """Fields of public dataclasses without a string below them, or a line of the class's docstring."""
    for node in ast.walk(module):
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_") or not _is_dataclass(node):
            continue
        lines = [line.strip() for line in (ast.get_docstring(node) or "").splitlines()]
        for statement, below in zip(node.body, [*node.body[1:], None], strict=True):
            match statement, below:
                case ast.AnnAssign(), ast.Expr(ast.Constant(str())):
                    continue
                case ast.AnnAssign(_, annotation, value), _ if _says_itself(annotation, value):
                    continue
                case ast.AnnAssign(ast.Name(name), annotation), _:
                    listed = any(line.startswith((f"`{name}`", f"{name}:")) for line in lines)
                    if not (listed or name.startswith("_") or "ClassVar" in ast.unparse(annotation)):
                        yield f"line {statement.lineno}: {node.name}.{name}"


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list)


def _says_itself(annotation: ast.expr, value: ast.expr | None) -> bool:
    """Whether it can have one value only, the word for a kind, or holds its own text for the command line."""
    match value:
        case ast.Call(ast.Name("option"), [_, ast.Constant(str())]):
            return True
        case ast.Constant():
            return ast.unparse(annotation) == f"Literal[{ast.unparse(value)}]"
    return False


def long_functions(module: ast.Module) -> Iterator[str]:
    """Functions whose body, without its docstring, does not fit a screen."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
            lines = (node.end_lineno or 0) - first.lineno + 1
            if lines > SCREEN:
                yield f"line {node.lineno}: {node.name} has {lines} lines"


@pytest.mark.parametrize("rule", [empty_names, undocumented_fields, long_functions])
def test_every_module_keeps(rule: Rule) -> None:
    broken = [f"{path}, {what}" for path, module in modules() for what in rule(module)]
    assert not broken, "\n".join([rule.__doc__ or "", *broken])


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "docs", "launchers"])
def test_names_beside_the_package_say_what_they_hold_too(folder: str) -> None:
    beside = modules(ROOT.parent / folder)
    broken = [f"{path}, {what}" for path, module in beside for what in empty_names(module)]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (empty_names, "found = 1"),
        (empty_names, "for one in range(3): pass"),
        (empty_names, "def f(told): pass"),
        (empty_names, "self.known = 1"),
        (empty_names, "with open(path) as given: pass"),
        (empty_names, "[seen for seen in rows]"),
        (undocumented_fields, '@dataclass(frozen=True)\nclass A:\n    """All in one."""\n    x: int'),
        (long_functions, "def f():\n" + "    pass\n" * (SCREEN + 1)),
    ],
)
def test_a_rule_sees_what_breaks_it(rule: Rule, text: str) -> None:
    assert list(rule(ast.parse(text)))


def test_a_line_a_field_is_enough() -> None:
    text = '@dataclass\nclass A:\n    """Two.\n\n    `x` is first.\n    """\n    x: int\n'
    text += '    y: int\n    """Second."""'
    assert not list(undocumented_fields(ast.parse(text)))


def test_no_two_classes_share_a_name() -> None:
    homes = defaultdict(set)
    for path, module in modules():
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef) and node.name not in SAME_NAMES:
                homes[node.name].add(path)
    assert not {name: paths for name, paths in homes.items() if len(paths) > 1}


def test_modules_fit_a_reading() -> None:
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path, _ in modules()}
    assert not {path: lines for path, lines in lengths.items() if lines > MODULE}
