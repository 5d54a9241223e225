"""Variables of jobs. Their names are recorded; their values, which may be secrets, are not: they go from the
environment of whoever submits to that of a task, under names of our own, so that no command in between acts
on them. What a value says of other variables is expanded where the task runs."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from typing import Any, TypeAlias

from sweepctl.errors import InvalidValue, RequestError

Variables: TypeAlias = Mapping[str, str | int | float | None]
"""Names and values; None: as it is where it is submitted, and not expanded."""

REFERENCE = re.compile(r"\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\})")
"""What a shell puts a variable's value for."""
VALUE, TEMPLATE = "SWEEPCTL_VALUE_", "SWEEPCTL_TEMPLATE_"
"""What the names begin with under which values are handed on as they are, or to be expanded."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check(variables: Variables) -> None:
    """See that these are variables that a shell can have.

    Raises:
        InvalidValue: a name or a value is none.
    """
    for name, value in variables.items():
        if not _NAME.fullmatch(name):
            raise InvalidValue("environment", name, "the name of a variable")
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


def handed_on(variables: Variables, strict: bool = True) -> dict[str, str]:
    """The values under the names by which a script takes them: those that the settings have, else those that
    were handed on to this process, else as the variable is here.

    Raises:
        RequestError: one is not set here; without `strict` it is empty then.
    """
    texts = {}
    for name, value in variables.items():
        if value is not None:
            prefix = TEMPLATE if REFERENCE.search(str(value)) else VALUE
            texts[prefix + name] = str(value)
            continue
        sources = (TEMPLATE + name, VALUE + name, name)
        source = next((source for source in sources if source in os.environ), None)
        if source is None and strict:
            raise RequestError(f"environment.{name} is null, and {name} is not set here.")
        key = source if source in sources[:2] else VALUE + name
        texts[str(key)] = os.environ[source] if source else ""
    return texts


def fingerprint(texts: Mapping[str, str], salt: str = "") -> str:
    """By which values are known again and not known: for a file that nobody else may read."""
    salt = salt or secrets.token_hex(8)
    return f"{salt} {hashlib.sha256(f'{salt} {sorted(texts.items())}'.encode()).hexdigest()}"


def are_the_same(texts: Mapping[str, str], before: str) -> bool:
    """Whether these are the values that a fingerprint was taken of."""
    return fingerprint(texts, before.partition(" ")[0]) == before


def exports(texts: Mapping[str, str]) -> list[str]:
    """The lines of a script that take what was handed on. No value is in them, but for the names of what it
    refers to."""
    lines = []
    for source, text in texts.items():
        if source.startswith(TEMPLATE):
            lines.append(f'SWEEPCTL_TEXT="${source}"')
            references = sorted(set(REFERENCE.findall(text)), key=len, reverse=True)
            lines += [f"SWEEPCTL_TEXT=${{SWEEPCTL_TEXT//'{name}'/\"{name}\"}}" for name in references]
            lines.append(f'export {source.removeprefix(TEMPLATE)}="$SWEEPCTL_TEXT"')
        else:
            lines.append(f'export {source.removeprefix(VALUE)}="${source}"')
    return lines
