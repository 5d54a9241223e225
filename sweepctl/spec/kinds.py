"""Dataclasses that come in kinds: a subclass each, in a module of its own, found by being in the folder."""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC
from collections.abc import Collection, Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, Self

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec.build import build, field_type, plain


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
    def named(cls, word: Any, at: str) -> type[Self]:
        """A kind by its word.

        Raises:
            InvalidValue: there is none; `at` names the key.
        """
        if not isinstance(word, str) or word not in cls.kinds():
            raise InvalidValue(at, word, f"one of {', '.join(cls.kinds())}")
        return cls.kinds()[word]

    @classmethod
    def variant(cls, raw: Mapping[str, Any], at: str) -> type[Self]:
        """The class that `build` makes of a mapping."""
        path = f"{at}.{cls.by}" if at else cls.by
        if cls.by not in raw:
            raise RequestError(f"{path} is missing.")
        return cls.named(raw[cls.by], path)

    @classmethod
    def own_keys(cls, record: Mapping[str, Any], asked: Collection[str] = ()) -> dict[str, Any]:
        """A record without the keys of other kinds.

        A study's file may set keys of the kind it was written for where another is chosen over it. Keys that
        no kind has stay, to be refused, and so do dotted keys that were `asked` for.
        """
        own = key_paths(cls.variant(record, cls.at))
        every = set().union(*(key_paths(kind) for kind in cls.kinds().values()))

        def kept(part: Mapping[str, Any], under: str) -> dict[str, Any]:
            paths = {key: f"{under}{key}" for key in part}
            return {
                key: kept(part[key], f"{path}.") if isinstance(part[key], Mapping) else part[key]
                for key, path in paths.items()
                if path in own
                or path not in every
                or any(asked_path == path or asked_path.startswith(f"{path}.") for asked_path in asked)
            }

        return kept(record, "")

    @classmethod
    def others_have(cls, key: str) -> bool:
        """Whether this kind does not have a dotted key that another has."""
        return key not in key_paths(cls) and any(key in key_paths(kind) for kind in cls.kinds().values())

    def as_kind(self, word: str) -> Self:
        """Another kind with the settings that both have, and its own defaults for the rest.

        Raises:
            InvalidValue: there is none of this name.
        """
        return build(self.base(), self.own_keys({**plain(self), self.by: word}), self.at)


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
