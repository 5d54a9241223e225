"""Dataclasses that come in kinds: a subclass each, in a module of its own, found by being in the folder."""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC
from collections.abc import Collection, Iterator, Mapping, Set
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, Self

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec.build import field_type


class Kinds(ABC):
    """Base of the class that the kinds are of. Which kind a mapping is of, one of its keys says; the others
    are the kind's own. A kind is a class whose field of that name has a default: the word for it."""

    __slots__ = ()
    by: ClassVar[str]
    """The key that tells kinds apart."""
    at: ClassVar[str]
    """Where a study has such a thing."""
    order: ClassVar[int] = 100
    """The kind's place among the others, before the alphabet's."""

    @classmethod
    def base(cls) -> type[Self]:
        """The class that the kinds are of."""
        return next(parent for parent in cls.__mro__ if Kinds in parent.__bases__)

    @classmethod
    def kinds(cls) -> dict[str, type[Self]]:
        """Every kind by its word, in their order."""
        return _kinds(cls.base())

    @classmethod
    def word(cls) -> str:
        """The word for this kind, empty for what is none."""
        default = next(f.default for f in dataclasses.fields(cls) if f.name == cls.by)  # type: ignore[arg-type]
        return "" if default is dataclasses.MISSING else str(default)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> type[Self]:
        """The kind that a record is of.

        Raises:
            RequestError: it does not say, or there is no such kind.
        """
        path, kinds = f"{cls.at}.{cls.by}", cls.kinds()
        if cls.by not in record:
            raise RequestError(f"{path} is missing.")
        word = record[cls.by]
        if not isinstance(word, str) or word not in kinds:
            raise InvalidValue(path, word, f"one of {', '.join(kinds)}")
        return kinds[word]

    @classmethod
    def variant(cls, raw: Mapping[str, Any]) -> type[Self]:
        """The class that `build` makes of a mapping.

        Raises:
            RequestError: the mapping has keys that only other kinds have, or lacks some of its own.
        """
        kind = cls.of(raw)
        for key in _paths(raw):
            kind.refuse(key)
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            if field.default is dataclasses.MISSING and field.name not in raw:
                word = kind.word()
                raise RequestError(
                    f"{cls.at}.{field.name} is missing: {cls.at}={word} gives every key of {word} its value, "
                    f"{cls.at}.{cls.by}={word} only chooses it."
                )
        return kind

    @classmethod
    def own_keys(cls, record: Mapping[str, Any], asked: Collection[str] = ()) -> dict[str, Any]:
        """A record without the keys of other kinds.

        A study's file may set keys of the kind it was written for where another is chosen over it. Keys that
        no kind has stay, to be refused, and so do dotted keys that were `asked` for.
        """
        foreign = cls.of(record).foreign_keys()

        def kept(part: Mapping[str, Any], under: str) -> dict[str, Any]:
            paths = {key: f"{under}{key}" for key in part}
            return {
                key: kept(part[key], f"{path}.") if isinstance(part[key], Mapping) else part[key]
                for key, path in paths.items()
                if path not in foreign
                or any(asked_path == path or asked_path.startswith(f"{path}.") for asked_path in asked)
            }

        return kept(record, "")

    @classmethod
    def foreign_keys(cls) -> Set[str]:
        """Dotted keys that other kinds have and this one has not."""
        return _foreign_keys(cls)

    @classmethod
    def refuse(cls, key: str) -> None:
        """Raises RequestError where a dotted key is one that only other kinds have."""
        if key in cls.foreign_keys():
            owners = ", ".join(word for word, kind in cls.kinds().items() if key in key_paths(kind))
            raise RequestError(
                f"{cls.at}.{key} is a key of {owners}, not of {cls.word()}: leave it out, or choose another "
                f"{cls.at}."
            )


@cache
def _kinds(base: Any) -> dict[str, Any]:
    package = base.__module__.rpartition(".")[0]
    modules = [
        import_module(module.name) for module in iter_modules(import_module(package).__path__, f"{package}.")
    ]
    classes: list[Any] = [
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    kinds = [cls for cls in classes if cls.word()]
    return {kind.word(): kind for kind in sorted(kinds, key=lambda kind: (kind.order, kind.word()))}


def _paths(record: Mapping[str, Any], under: str = "") -> Iterator[str]:
    """Dotted keys of a record, and of the mappings inside it."""
    for key, value in record.items():
        yield f"{under}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{under}{key}.")


@cache
def _foreign_keys(cls: type[Kinds]) -> set[str]:
    every: set[str] = set().union(*map(key_paths, cls.kinds().values()))
    return every - key_paths(cls)


@cache
def key_paths(cls: Any, under: str = "") -> set[str]:
    """Dotted names of a dataclass's fields, and of those inside them."""
    paths = set()
    for field in dataclasses.fields(cls):
        paths.add(f"{under}{field.name}")
        inner = field_type(cls, field.name)
        if dataclasses.is_dataclass(inner):
            paths |= key_paths(inner, f"{under}{field.name}.")  # type: ignore[arg-type]
    return paths
