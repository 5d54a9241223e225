"""A value has one place: what conf says, the code does not say otherwise."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sweepctl.resources import conf_dir
from sweepctl.spec.build import field_type, plain
from sweepctl.spec.science import NEUTRAL
from sweepctl.spec.study import Study

SECTIONS = {field.name: field_type(Study, field.name) for field in dataclasses.fields(Study)}
OPTIONAL = {"model.experts": "moe"}
"""Parts that are null where nobody asks for them -> the option that says what they are by default."""


def written() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each section that conf writes: its name, its keys, and the option of which it is."""
    for name, value in yaml.safe_load((conf_dir() / "config.yaml").read_text()).items():
        if dataclasses.is_dataclass(SECTIONS.get(name)):
            yield name, value, "config"
    for file in sorted(conf_dir().glob("*/*.yaml")):
        if (name := file.parent.name) != "study":
            keys = yaml.safe_load(file.read_text())
            yield name, keys[name] if is_global(file) else keys, file.stem


def is_global(file: Path) -> bool:
    return file.read_text().startswith("# @package _global_")


def other_defaults(cls: Any, keys: dict[str, Any], at: str, option: str) -> Iterator[str]:
    """Fields whose default is neither what these keys say, nor nothing at all, nor frozen by ids."""
    variant = getattr(cls, "variant", None)
    for field in dataclasses.fields(variant(keys) if variant else cls):
        path, kind = f"{at}.{field.name}", field_type(cls, field.name)
        value = keys.get(field.name)
        parts = [part for part in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(part)]
        if parts and isinstance(value, dict):
            if OPTIONAL.get(path, option) == option:
                yield from other_defaults(parts[0], value, path, option)
            continue
        if field.default is dataclasses.MISSING or not field.default or field.name not in keys:
            continue
        if plain(field.default) not in (value, NEUTRAL.get(path)):
            yield f"{path} is {field.default} in code and {value} in {option}"


def test_no_default_in_code_contradicts_conf() -> None:
    """A default of nothing (null, false, 0, an empty list) says only that nothing is asked for."""
    sections = list(written())
    assert {name for name, _, _ in sections} == {
        name for name, kind in SECTIONS.items() if dataclasses.is_dataclass(kind)
    }
    assert not [
        line for name, keys, option in sections for line in other_defaults(SECTIONS[name], keys, name, option)
    ]
