"""What a launcher's file leaves out: `launchers/KIND.yaml` is the one place where defaults are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sweepctl.errors import InvalidValue
from sweepctl.resources import launchers_dir
from sweepctl.spec.build import build

T = TypeVar("T")


def build_settings(cls: type[T], raw: Mapping[str, Any]) -> T:
    """A launcher's settings, of a person's file or as an older version wrote them down: what they do not say
    is as in the file of their kind.

    Raises:
        RequestError: a key or value is not valid.
    """
    from omegaconf import OmegaConf  # it takes a moment, and not every command reads settings

    kind = raw.get("kind")
    file = launchers_dir() / f"{kind}.yaml"
    if not isinstance(kind, str) or file.parent != launchers_dir() or not file.is_file():
        raise InvalidValue("kind", kind, "a kind of launcher")
    defaults = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(defaults, dict)
    return build(cls, _over({str(key): value for key, value in defaults.items()}, raw))


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge, everything else is replaced."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            merged[key] = _over(below[key], above[key])
    return merged
