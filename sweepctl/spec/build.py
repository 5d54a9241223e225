"""Plain mappings to dataclasses and back, strictly: every unknown key and wrong type is named."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sweepctl.errors import InvalidValue, RequestError, unknown_name

T = TypeVar("T")
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def build(cls: type[T], raw: Any, at: str = "") -> T:
    """Make a dataclass from a mapping, converting each value to its field's declared type. A class with
    variants (`variant`, a class method) says which of them the mapping is of; one may put a mapping as people
    write it in order first (`tidy`).

    Raises:
        RequestError: a key that is unknown or missing, or a value of the wrong type or range; the
            message names the key by its full dotted path.
    """
    if not isinstance(raw, Mapping):
        raise InvalidValue(at or cls.__name__, raw, "a mapping of keys")
    variant = getattr(cls, "variant", None)
    cls = variant(raw) if variant else cls
    tidy = getattr(cls, "tidy", None)
    try:
        raw = tidy(raw) if tidy else raw
    except InvalidValue as error:
        raise (error.under(at) if at else error) from None
    hints: dict[str, Any] = _hints(cls)  # type: ignore[arg-type]
    for key in raw:
        if key not in hints:
            raise unknown_name("key", str(key), hints, f" in {at}" if at else "")
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        path = f"{at}.{field.name}" if at else field.name
        if field.name in raw:
            values[field.name] = convert(hints[field.name], raw[field.name], path)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RequestError(f"{path} is missing.")
    try:
        return cls(**values)
    except InvalidValue as error:
        raise (error.under(at) if at else error) from None


def convert(kind: Any, value: Any, at: str) -> Any:
    """One value as `kind`: a scalar, Literal, Optional, tuple, dict or dataclass."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, at)
    if origin is Literal:
        if value in args and not (isinstance(value, bool) and True not in args and False not in args):
            return value
        raise InvalidValue(at, value, "one of " + ", ".join(str(arg) for arg in args))
    if origin is tuple:
        if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
            example = f", such as \"{at}=['{value}']\"" if isinstance(value, str) else ""
            raise InvalidValue(at, value, "a list" + example)
        return tuple(convert(args[0], item, f"{at}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InvalidValue(at, value, "a mapping")
        return {str(key): convert(args[1], item, f"{at}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return build(kind, value, at) if not isinstance(value, kind) else value  # type: ignore[arg-type]
    return _convert_scalar(kind, value, at)


def _convert_union(kinds: tuple[Any, ...], value: Any, at: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    choices = [kind for kind in kinds if kind is not type(None)]
    for kind in choices:
        if kind in (int, float, str, bool) and type(value) is kind:
            return _convert_scalar(kind, value, at)
    for kind in choices[:-1]:
        try:
            return convert(kind, value, at)
        except RequestError:
            continue
    try:
        return convert(choices[-1], value, at)
    except RequestError:
        words = [_words(kind) for kind in choices]
        if len(words) == 1 or None in words:
            raise
        raise InvalidValue(at, value, " or ".join(word for word in words if word)) from None


def _words(kind: Any) -> str | None:
    """What a value of this kind is called."""
    return ", ".join(map(str, get_args(kind))) if get_origin(kind) is Literal else _WORDS.get(kind)


def _convert_scalar(kind: Any, value: Any, at: str) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and (whole or (isinstance(value, float) and value.is_integer())):
        return int(value)
    if kind is float and (whole or isinstance(value, float)):
        if not -sys.float_info.max <= value <= sys.float_info.max:  # nor NaN, nor an integer beyond them
            raise InvalidValue(at, value, "a finite number")
        return float(value)
    if kind is str and isinstance(value, str):
        return value
    raise InvalidValue(at, value, _WORDS.get(kind, str(kind)))


def plain(value: Any) -> Any:
    """A dataclass as JSON-ready dicts and lists; other values as they are."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def field_type(cls: Any, name: str) -> Any:
    """The declared type of a dataclass field, or None where there is no such field."""
    return _hints(cls).get(name)


@cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}
