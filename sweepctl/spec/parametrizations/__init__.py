"""The tables: a module each, found by its name."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from sweepctl.spec.parametrizations.table import Rule
from sweepctl.spec.weights import WeightClass

TABLES: dict[str, dict[WeightClass, Rule]] = {
    name: import_module(f"{__name__}.{name}").TABLE
    for _, name, _ in iter_modules(__path__)
    if name != "table"
}
