"""Settings that differ between rungs, named in a launcher's file by name or pattern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from sweepctl.spec.build import build, plain

T = TypeVar("T")


def for_rung(common: T, rungs: Mapping[str, Mapping[str, Any]], rung: str) -> T:
    """A rung's settings: the common ones, and over them those of every pattern that its name matches, in
    their order.

    Raises:
        RequestError: an unknown key or a wrong value, named with the rung.
    """
    own: dict[str, Any] = {}
    for pattern, changes in rungs.items():
        own |= changes if fnmatchcase(rung, pattern) else {}
    return build(type(common), {**plain(common), **own}, f"rungs.{rung}") if own else common


def each_pattern(common: T, rungs: Mapping[str, Mapping[str, Any]]) -> list[T]:
    """The settings that every pattern alone makes of the common ones.

    Raises:
        RequestError: an unknown key or a wrong value, named with the pattern.
    """
    return [build(type(common), {**plain(common), **changes}, f"rungs.{p}") for p, changes in rungs.items()]


def idle_patterns(patterns: Iterable[str], rungs: Iterable[str]) -> list[str]:
    """Patterns that match none of these rungs."""
    names = list(rungs)
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
