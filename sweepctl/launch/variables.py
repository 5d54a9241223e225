"""Variables of jobs. Their names are recorded; their values, which may be secrets, are not: they go from the
environment of whoever submits to that of a task, under names of our own, so that no command in between acts
on them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from sweepctl.errors import InvalidValue, RequestError

Variables: TypeAlias = Mapping[str, str | int | float | None]
"""Names and values; None: as it is where it is submitted."""

PREFIX = "SWEEPCTL_VALUE_"
"""Of the names under which values are handed on."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$(\w|\{)")


def check(variables: Variables) -> None:
    """See that these are variables that a shell can have, and say what they mean.

    Raises:
        InvalidValue: a name is none, or a value waits for a shell to expand it.
    """
    for name, value in variables.items():
        if not _NAME.fullmatch(name):
            raise InvalidValue("environment", name, "the name of a variable")
        if isinstance(value, str) and _REFERENCE.search(value):
            raise InvalidValue(
                f"environment.{name}",
                "...$...",
                "a text without $NAME, which nothing expands: ${oc.env:NAME} is NAME where this launches, "
                f"a line `export {name}=...` of `setup` where it runs, null is {name} where this launches",
            )
        if isinstance(value, str) and "\0" in value:
            raise InvalidValue(f"environment.{name}", "...", "a text without a zero byte")


def names_only(settings: dict[str, Any]) -> dict[str, Any]:
    """A launcher's settings as they may be read by everybody."""
    public = dict(settings)
    if public.get("environment"):
        public["environment"] = dict.fromkeys(public["environment"])
    if public.get("rungs"):
        public["rungs"] = {pattern: names_only(changes) for pattern, changes in public["rungs"].items()}
    return public


def values(variables: Variables) -> dict[str, str]:
    """The values, of those that are handed on, or are as they are here, too.

    Raises:
        RequestError: one is not set here.
    """
    texts = {}
    for name, value in variables.items():
        text = os.environ.get(PREFIX + name, os.environ.get(name)) if value is None else str(value)
        if text is None:
            raise RequestError(f"environment.{name} is null, and {name} is not set here.")
        texts[name] = text
    return texts


def handed_on(texts: Mapping[str, str]) -> dict[str, str]:
    """Values under the names that a script takes them from."""
    return {PREFIX + name: text for name, text in texts.items()}


def exports(names: Variables) -> list[str]:
    """The lines of a script that take them. No value is in them."""
    return [f'export {name}="${PREFIX}{name}"' for name in names]
