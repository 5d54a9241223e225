"""Arithmetic and conditions written as text, such as `s / sqrt(m)`: formulas stay readable as their papers
print them. The one language for every expression that sweepctl takes; nothing of Python is reached by it."""

from __future__ import annotations

import ast
import functools
import math
import operator
import re
import unicodedata
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar

from sweepctl.errors import RequestError, unknown_name

LONGEST = 10_000
"""Characters of an expression."""
LARGEST = 2**1024
"""Whole numbers stay below it, as every other number does: what is larger takes time without bound."""
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda a, b: a ** (float(b) if isinstance(b, int) else b),  # of whole numbers it would not end
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_COMPARISONS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "sqrt": math.sqrt,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "exp": math.exp,
    "abs": abs,
    "min": min,
    "max": max,
    "round": lambda x, *digits: round(float(x), decimals(*digits)) if digits else round(x),
    "pow2": lambda x: 2.0 ** round(math.log2(x)),
}
"""What an expression may call; `pow2` is the nearest power of two, by ratio."""
_WORDS = {"&": " and ", "&&": " and ", "|": " or ", "||": " or ", "~": " not "}
_TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`[^`]*`|&&?|\|\|?|~""", re.S)


class Evaluator(ABC):
    """What an expression is worth; a subclass says what its words do to values of one kind."""

    functions: ClassVar[Mapping[str, Callable[..., Any]]]
    """What may be called."""
    texts: ClassVar[bool] = False
    """Whether a comparison may name a text."""

    def __init__(self, quoted: Mapping[str, str]) -> None:
        self._quoted = quoted

    @abstractmethod
    def named(self, name: str) -> Any:
        """The value of a name."""

    @abstractmethod
    def number(self, value: Any) -> Any:
        """A value that arithmetic can take."""

    @abstractmethod
    def truth(self, value: Any) -> Any:
        """A value as a condition."""

    @abstractmethod
    def compared(self, compare: Callable[..., Any], left: Any, right: Any) -> Any:
        """Two values held against each other."""

    @abstractmethod
    def choice(self, test: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        """One value where a condition holds, else the other."""

    @abstractmethod
    def both(self, left: Any, right: Callable[[], Any]) -> Any:
        """Whether two conditions hold."""

    @abstractmethod
    def opposite(self, condition: Any) -> Any:
        """Whether a condition does not hold."""

    def value(self, node: ast.expr) -> Any:
        """What one part of an expression is worth."""
        match node:
            case ast.Constant(value=bool() as word) if self.texts:
                return word
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return self.number(number)
            case ast.Name(id=name):
                return self.named(self._quoted.get(name, name))
            case ast.BinOp(left, operation, right) if type(operation) in _OPERATORS:
                return self._calculated(operation, left, right)
            case ast.UnaryOp(ast.USub() | ast.UAdd() as operation, operand):
                return self._calculated(operation, operand)
            case ast.UnaryOp(ast.Not(), operand):
                return self.opposite(self.truth(self.value(operand)))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in self.functions:
                return self.number(self.functions[name](*(self.number(self.value(a)) for a in arguments)))
            case ast.IfExp(test, body, orelse):
                condition = self.truth(self.value(test))
                return self.choice(condition, lambda: self.value(body), lambda: self.value(orelse))
            case ast.BoolOp(ast.And(), operands):
                return self._all(operands)
            case ast.BoolOp(ast.Or(), operands):  # one of them holds: not all are untrue
                return self.opposite(self._all([ast.UnaryOp(ast.Not(), operand) for operand in operands]))
            case ast.Compare(left, operations, rights):
                return self._chain([left, *rights], operations)
        raise RequestError(
            f"{self._shown(node)} is no arithmetic; a formula has numbers, names, + - * / **, "
            f"{', '.join(self.functions)}, comparisons, and, or, not, and `a if b >= c else d`."
        )

    def _calculated(self, operation: ast.AST, *operands: ast.expr) -> Any:
        return self.number(_OPERATORS[type(operation)](*(self.number(self.value(o)) for o in operands)))

    def _all(self, conditions: Iterable[ast.expr]) -> Any:
        first, *others = conditions
        holds = self.truth(self.value(first))
        for other in others:
            holds = self.both(holds, functools.partial(self._truth_of, other))
        return holds

    def _truth_of(self, node: ast.expr) -> Any:
        return self.truth(self.value(node))

    def _chain(self, operands: list[ast.expr], operations: list[ast.cmpop]) -> Any:
        holds = self._comparison(operands[0], operations[0], operands[1])
        for i, operation in enumerate(operations[1:], 1):
            later = functools.partial(self._comparison, operands[i], operation, operands[i + 1])
            holds = self.both(holds, later)
        return holds

    def _comparison(self, left: ast.expr, operation: ast.cmpop, right: ast.expr) -> Any:
        match operation, right:
            case (ast.In(), ast.List(members) | ast.Tuple(members)) if members:
                equal = [ast.Compare(left, [ast.Eq()], [member]) for member in members]
                return self.value(ast.BoolOp(ast.Or(), list(equal)))
            case (ast.NotIn(), ast.List() | ast.Tuple()):
                return self.opposite(self._comparison(left, ast.In(), right))
        if type(operation) not in _COMPARISONS:
            raise RequestError(
                f"A comparison is one of < <= > >= == != or `in [...]`, not {_word(operation)}."
            )
        return self.compared(_COMPARISONS[type(operation)], self._operand(left), self._operand(right))

    def _operand(self, node: ast.expr) -> Any:
        if self.texts and isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        return self.value(node)

    def _shown(self, node: ast.expr) -> str:
        text = ast.unparse(node)
        for word, name in self._quoted.items():
            text = text.replace(word, f"`{name}`")
        return repr(text if len(text) <= 80 else text[:77] + "...")


class _Numbers(Evaluator):
    """Of numbers alone."""

    functions = FUNCTIONS

    def __init__(self, quoted: Mapping[str, str], names: Mapping[str, float]) -> None:
        super().__init__(quoted)
        self._names = names

    def named(self, name: str) -> float:
        return self.number(self._names[known_name(name, self._names, "name of a formula")])  # type: ignore[no-any-return]

    def number(self, value: Any) -> Any:
        if isinstance(value, int) and abs(value) >= LARGEST:
            raise OverflowError
        return value

    def truth(self, value: Any) -> bool:
        return bool(value)

    def compared(self, compare: Callable[..., Any], left: Any, right: Any) -> bool:
        return bool(compare(left, right))

    def choice(self, test: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        return yes() if test else no()

    def both(self, left: Any, right: Callable[[], Any]) -> bool:
        return bool(left and right())

    def opposite(self, condition: Any) -> bool:
        return not condition


def evaluate(text: str, names: Mapping[str, float]) -> float:
    """The value of a formula over these names.

    Raises:
        RequestError: it is not arithmetic, uses an unknown name, or has no finite value.
    """
    node, quoted = parsed(text)
    try:
        value: float = _Numbers(quoted, names).value(node)
        finite = not isinstance(value, complex) and math.isfinite(value)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise RequestError(f"The formula {text!r} has no value: {cause(error)}.") from None
    except RecursionError:
        raise RequestError("A formula is too deep to be computed.") from None
    if isinstance(value, bool):
        raise RequestError(f"The formula {text!r} compares; it must give a number.")
    if not finite:
        raise RequestError(f"The formula {text!r} has no finite value here.")
    return value


@functools.lru_cache(maxsize=4096)
def parsed(text: str) -> tuple[ast.expr, Mapping[str, str]]:
    """An expression's tree, and the names that stand in it for what was written in backticks.

    Raises:
        RequestError: it is no expression.
    """
    if len(text) > LONGEST:
        raise RequestError(f"A formula has at most {LONGEST} characters, not {len(text)}.")
    stem, names = "quoted", dict[str, str]()
    while stem in text:
        stem += "_"

    def token(match: re.Match[str]) -> str:
        word = match.group()
        if word.startswith("`"):
            return next((spelling for spelling, name in names.items() if name == word[1:-1]), None) or new(
                word[1:-1]
            )
        return _WORDS.get(word, word)

    def new(name: str) -> str:
        names[word := f"{stem}{len(names)}"] = name
        return word

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(_TOKEN.sub(token, text).strip(), mode="eval").body, names
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise RequestError(f"{text!r} is not a formula.") from None


def known_name(name: str, names: Collection[str], kind: str) -> str:
    """A name as it is spelled among these: Python's parser writes some letters in another form.

    Raises:
        RequestError: it is not among them.
    """
    if name in names:
        return name
    for spelling in names:
        if unicodedata.normalize("NFKC", spelling) == name:
            return spelling
    raise unknown_name(kind, name, names)


def decimals(digits: float) -> int:
    """The digits that a number is rounded to, few enough to be computed."""
    if digits != int(digits) or abs(digits) > 30:
        raise ValueError(f"round takes a whole number of digits, not {digits:g}")
    return int(digits)


def cause(error: Exception) -> str:
    """What went wrong in arithmetic, in words."""
    return "a number is too large" if isinstance(error, OverflowError) else str(error)


def _word(operation: ast.cmpop) -> str:
    return {"In": "in", "NotIn": "not in", "Is": "is", "IsNot": "is not"}[type(operation).__name__]
