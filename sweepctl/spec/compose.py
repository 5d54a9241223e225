"""Hydra in, a study out. The only module that imports Hydra; composed once a study."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.resources import conf_dir, launchers_dir
from sweepctl.spec.build import build, plain
from sweepctl.spec.grid import MOST, dotted
from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.schedules.schedule import Schedule
from sweepctl.spec.study import Study

OPEN = (
    *("grid.axes", "grid.sample", "stages.", "data.options", "scaling.fields", "scaling.constants"),
    *("schedule.", "optimizer."),
)
"""Mappings that may be given new keys: an override there adds what is missing, as Hydra's ++ does. Schedules
and optimizers say themselves which keys their kind has."""
LISTS = ("budget.", "ladder.", "stages.")
"""Where a comma cannot mean an axis: what lies here is a list of the study, not a field of the science."""
_RUNG = re.compile(r"rungs\.([^.=]+)\.([^=]+)=(.*)", re.S)
"""A rung's own resources: names such as 8x1 are no keys in Hydra's grammar."""
EMPTIED = ("grid.axes", "stages", "data.options", "scaling.fields", "scaling.constants")
"""Mappings that `key={}` empties, where Hydra would merge nothing into what is there."""


ROOT = "sweepctl root"


class _UserConfig(SearchPathPlugin):
    """Puts the user's own directory ahead of the built-in one."""

    directory: Path | None = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if _UserConfig.directory is not None:
            search_path.prepend("user", f"file://{_UserConfig.directory}")


def compose_study(overrides: list[str], config_dir: Path | None = None) -> Study:
    """The study that the built-in `conf/`, the user's directory over it and the overrides make.

    A comma sweep (`optimizer.lr=1e-3,2e-3`, `range(...)`, `interval(...)`) becomes an axis of the grid.

    Raises:
        RequestError: any key, value, group or file that is not valid, in one sentence.
    """
    settings, axes = _split_sweeps(overrides)
    root = OmegaConf.load(conf_dir() / "config.yaml")  # by a name that no file of the user's can have
    ConfigStore.instance().store(ROOT, root)
    raw = _compose(conf_dir(), ROOT, settings, config_dir)
    for name, stage in (raw.get("stages") or {}).items():
        if isinstance(stage, dict) and isinstance(stage.get("grid"), dict):
            own = dotted(stage["grid"].get("axes") or {})
            stage["grid"]["axes"] = own | {name: axis for name, axis in axes.items() if name in own}
        raw["stages"][name] = stage
    grid = raw.get("grid") or {}
    raw["grid"] = {**grid, "axes": dotted(grid.get("axes") or {}) | axes}
    if (raw.get("scaling") or {}).get("fields"):
        raw["scaling"]["fields"] = dotted(raw["scaling"]["fields"])
    for kinds in (Schedule, Optimizer):
        if isinstance(raw.get(kinds.at), dict):
            raw[kinds.at] = kinds.own_keys(raw[kinds.at], _keys_under(kinds.at, overrides))
    if "study" in raw:
        raise RequestError("The study's file does not begin with '# @package _global_', which a study needs.")
    return build(Study, raw)


def as_yaml(study: Study) -> str:
    """The study as one YAML file, every value written out."""
    return str(OmegaConf.to_yaml(plain(study)))


def compose_launcher(name: str, overrides: list[str], config_dir: Path | None = None) -> dict[str, Any]:
    """The settings of one machine, from `launchers/`. Its launcher says which keys there are, but for those
    of `execution`, which every file has."""
    rungs = [rung for text in overrides if (rung := _RUNG.fullmatch(text))]
    settings = [text for text in overrides if not _RUNG.fullmatch(text)]
    settings = [text if text.startswith(("+", "~", "execution.")) else f"++{text}" for text in settings]
    for text in settings:
        _one_value(text)
    raw = _compose(launchers_dir(), name, settings, config_dir)
    for rung in rungs:
        own, (*path, key) = raw.setdefault("rungs", {}).setdefault(rung[1], {}), rung[2].split(".")
        for part in path:
            below = own.get(part)
            own[part] = own = dict(below) if isinstance(below, dict) else {}
        own[key] = _parse(f"value={rung[3]}").value()
    return raw


def _compose(directory: Path, name: str, overrides: list[str], user: Path | None) -> dict[str, Any]:
    if user is not None and not user.is_dir():
        raise RequestError(f"--config-dir {user} is not a directory.")
    Plugins.instance().register(_UserConfig)
    _UserConfig.directory = user.resolve() if user else None
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(directory)):
            config = compose(name, overrides=overrides)
        raw = OmegaConf.to_container(config, resolve=True)
    except MissingConfigException as error:
        raise RequestError(_missing(str(error))) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise RequestError(_sentence(str(error))) from None
    except UnicodeDecodeError as error:
        raise RequestError(f"A config file is not UTF-8 text: {error}.") from None
    except RecursionError:
        raise RequestError(_circle(user)) from None
    except Exception as error:  # what Hydra does not foresee in a file comes through it as it is
        why = " ".join(str(error).split()) or type(error).__name__
        if type(error).__module__.split(".")[0] == "yaml":
            raise RequestError(f"A config file is not valid YAML: {why}.") from None
        raise RequestError(f"The configuration cannot be composed: {why}.") from None
    if not isinstance(raw, dict):
        raise RequestError(f"The configuration {name} is a {type(raw).__name__}, not a mapping.")
    return {str(key): value for key, value in raw.items()}


def _one_value(text: str) -> None:
    """See that an override gives one value.

    Raises:
        RequestError: it is no override, or one of several values; with how to quote it.
    """
    key, _, value = text.lstrip("+").partition("=")
    try:
        several = OverridesParser.create().parse_override(text).is_sweep_override()
    except HydraException:
        several = value != ""
    if several:
        quoted = f"\"{key}='...'\", a list of such as \"{key}=['a b', 'c=d']\""
        raise RequestError(
            f"{key}={value} must be quoted for Hydra: a text with blanks, = or commas as {quoted}."
        )


def _split_sweeps(overrides: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Overrides that set one value, and the axes that the sweeping ones stand for."""
    settings: list[str] = []
    axes: dict[str, Any] = {}
    for text in overrides:
        override = _parse(text)
        if override.is_sweep_override():
            name = override.get_key_element().lstrip("+")
            if name.startswith(LISTS):
                values = text.partition("=")[2]
                raise RequestError(f"{name} is a list of the study, not an axis: write '{name}=[{values}]'.")
            if "." not in name and name not in ("precision",):
                raise RequestError(f"{text}: an axis is a science field such as optimizer.lr, not a group.")
            axes[name] = _axis(override)
        elif override.key_or_group in EMPTIED and override.value() in ({}, None):
            settings.append(f"~{override.key_or_group}")
        elif text.startswith(OPEN):
            settings.append(f"++{text}")
        else:
            settings.append(text)
    return settings, axes


def _keys_under(group: str, overrides: list[str]) -> set[str]:
    """Dotted keys of a group that overrides name one by one or in a mapping."""
    keys: set[str] = set()

    def add(path: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                add(f"{path}.{key}", inner)
        elif path.startswith(f"{group}."):
            keys.add(path.removeprefix(f"{group}."))

    for text in overrides:
        override = _parse(text)
        if not override.is_sweep_override():
            add(override.key_or_group, override.value())
    return keys


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        raise RequestError(f"{text!r} is not a Hydra override: write key=value.") from None


def _axis(override: Override) -> Any:
    value, key = override.value(), override.get_key_element().lstrip("+")
    if isinstance(value, Glob):
        raise InvalidValue(
            key,
            str(override.input_line).partition("=")[2],
            "a list of values; glob chooses among files of a group",
        )
    if isinstance(value, RangeSweep):
        _bounded(key, value)
    if isinstance(value, IntervalSweep):
        rule = "log_uniform" if "log" in getattr(value, "tags", ()) else "uniform"
        return {rule: [value.start, value.end]}
    try:
        return [_unquoted(item) for item in override.sweep_iterator()]
    except (HydraException, OmegaConfBaseException) as error:
        raise RequestError(_sentence(str(error))) from None


def _bounded(key: str, values: RangeSweep) -> None:
    """Raises InvalidValue where a range has no end, or none that a grid could hold."""
    start, stop, step = (float(x or 0) for x in (values.start, values.stop, values.step))
    if not all(map(math.isfinite, (start, stop, step))) or step == 0 or (stop - start) / step > MOST:
        text = f"range({start:g}, {stop:g}, {step:g})"
        raise InvalidValue(key, text, f"a range with a step other than 0 and at most {MOST} values")


def _unquoted(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    return OmegaConf.from_dotlist([f"value={text}"]).value


def _circle(user: Path | None) -> str:
    """Which file of the user's extends itself: the first of its name is itself, not the built-in one."""
    for path in sorted(user.rglob("*.yaml")) if user else ():
        try:
            names = list(OmegaConf.select(OmegaConf.load(path), "defaults"))
        except Exception:  # it is no such file, and was not read before
            continue
        if path.stem in names:
            return f"{path} extends {path.stem}, which is itself: give it a name of its own."
    return "The configuration refers to itself without end, in its defaults lists or its interpolations."


def _missing(text: str) -> str:
    primary = re.search(r"Cannot find primary config '([^']+)'", text)
    if primary:
        names = ", ".join(sorted(path.stem for path in launchers_dir().glob("*.yaml")))
        return f"There is no launcher {primary.group(1)}; there is {names}."
    absent = re.search(r"Could not find '([^']+)'", text)
    listed = re.search(r"Available options in '[^']+':\n((?:\t\S+\n)+)", text)
    options = ", ".join(listed.group(1).split()) if listed else ""
    if not absent:
        return _sentence(text)
    group, _, option = absent.group(1).rpartition("/")
    return f"{group}={option} is not there" + (f"; {group} can be {options}." if options else ".")


def _sentence(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[0].replace("'++", "'") if lines else "the configuration is not valid"
    could_not = re.match(r"Could not override '([^']+)'", first)
    if could_not:
        return f"{could_not.group(1)} is not a key of the configuration."
    merging = re.match(r"Error merging override ([^=]+)", first)
    if merging:
        key = merging.group(1).lstrip("+")
        return (
            f"{key} has a value of another form (a list, a rule); edit its file, or empty it with '~{key}'."
        )
    return first if first.endswith(".") else first + "."
