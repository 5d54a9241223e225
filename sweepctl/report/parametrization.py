"""A parametrization's table: its formulas as the paper prints them, and their numbers at given widths."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console

from sweepctl.errors import InvalidValue
from sweepctl.report.console import table
from sweepctl.spec.model import Shape
from sweepctl.spec.parametrization import Parametrization, Row
from sweepctl.spec.parametrizations.table import COLUMNS
from sweepctl.spec.study import Study
from sweepctl.spec.weights import CLASSES, Weight, distinct_weights

HEADINGS = {
    "init_std": "init std", "lr": "lr Adam", "lr_sgd": "lr SGD", "lr_muon": "lr Muon", "forward": "forward",
    "weight_decay": "decay", "eps": "eps",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClassLine:
    """Tensors of one class that have the same numbers."""

    kind: str
    """The class."""
    tensors: tuple[str, ...]
    """Their names."""
    row: Row
    """The parametrization's numbers."""
    learning_rate: float
    """The composed optimizer's, at the peak."""
    decay: float
    """The share of a weight that decays at an update at the peak."""
    eps: float | None
    """The composed optimizer's, None where it has none."""


@dataclass(frozen=True, slots=True)
class ShapeNumbers:
    """The table's numbers at one shape."""

    shape: Shape
    """Width and depth."""
    attention: float
    """The multiplier on query-key products."""
    logits: float
    """The multiplier on logits."""
    lines: tuple[ClassLine, ...]
    """By class."""


def shapes_of(study: Study, widths: list[int], layers: int | None) -> list[Shape]:
    """Shapes of these widths by the ladder's head size and d_ff ratio, `layers` deep or as the base shape.

    Raises:
        InvalidValue: a width is not of whole heads, or the depth not above 0.
    """
    base = study.parametrization
    rule = study.ladder.rule()
    for width in widths:
        if width < 1 or (rule.head_size and width % rule.head_size):
            raise InvalidValue("--d", width, f"a multiple of ladder.head_size={rule.head_size}")
    if layers is not None and layers < 1:
        raise InvalidValue("--layers", layers, "at least 1")
    return [replace(rule.by_width(width), n_layers=layers or base.base_n_layers) for width in widths]


def numbers_at(study: Study, shape: Shape, vocab_size: int) -> ShapeNumbers:
    """What every class of the study's model gets at this shape."""
    parametrization = study.parametrization
    by_row: dict[tuple[str, Row], list[Weight]] = {}
    for weight, _ in distinct_weights(shape, study.model, vocab_size, study.batch.context):
        row = parametrization.row(weight, shape)
        by_row.setdefault((weight.kind, row), []).append(weight)
    lines = [_line(study, kind, row, members) for (kind, row), members in by_row.items()]
    lines.sort(key=lambda line: [*CLASSES].index(line.kind))  # type: ignore[arg-type]
    logits = parametrization.logit_multiplier(shape, study.model.tied)
    return ShapeNumbers(shape, parametrization.attention_multiplier(shape), logits, tuple(lines))


def _line(study: Study, kind: str, row: Row, members: list[Weight]) -> ClassLine:
    optimizer = study.optimizer
    rate = optimizer.peak_lr(members[0], row)
    names = tuple(dict.fromkeys(weight.name for weight in members))
    decay = rate * optimizer.decay(members[0], row)
    return ClassLine(kind, names, row, rate, decay, optimizer.epsilon(row))


def table_json(name: str, study: Study, every: list[ShapeNumbers]) -> dict[str, Any]:
    """Formulas by class and column, and the lines of every shape."""
    return {
        "parametrization": name,
        "values": asdict(study.parametrization),
        "optimizer": asdict(study.optimizer),
        "formulas": {kind: asdict(rule) for kind, rule in study.parametrization.rules.items()},
        "shapes": [asdict(numbers) for numbers in every],
    }


def show_table(out: Console, name: str, study: Study, every: list[ShapeNumbers]) -> None:
    """The table of formulas, then one of numbers a width; columns that are 1 everywhere are left out."""
    parametrization = study.parametrization
    kinds = [kind for kind in CLASSES if kind in {line.kind for numbers in every for line in numbers.lines}]
    shown = [c for c in COLUMNS if any(getattr(parametrization.rules[kind], c) != "1" for kind in kinds)]
    rows = [[kind, *(getattr(parametrization.rules[kind], c) for c in shown)] for kind in kinds]
    out.print(table(f"{name}: formulas", ["class", *(HEADINGS[c] for c in shown)], rows))
    out.print(f"  {_values(parametrization)}", soft_wrap=True)
    absent = [kind for kind in CLASSES if kind not in kinds]
    out.print(f"  not in this model: {', '.join(absent)}\n" if absent else "", soft_wrap=True)
    for numbers in every:
        _show_numbers(out, study, numbers, shown)


def _values(parametrization: Parametrization) -> str:
    """What the names in the formulas stand for, where that is one number for all widths."""
    values = {
        "s": ("s", parametrization.init_std),
        "m": ("d_base", parametrization.base_d_model),
        "m_L": ("L_base", parametrization.base_n_layers),
        "a": ("a", parametrization.depth_exponent),
        "alpha_in": ("alpha_in", parametrization.embedding_multiplier),
        "alpha_res": ("alpha_res", parametrization.residual_multiplier),
        "alpha_out": ("alpha_out", parametrization.output_multiplier),
    }
    formulas = " ".join(getattr(rule, c) for rule in parametrization.rules.values() for c in COLUMNS)
    used = set(re.findall(r"\w+", formulas))
    parts = [f"{name} = {value:g}" for key, (name, value) in values.items() if key in used]
    parts += ["depth rule off (m_L = 1)"] if "a" in used and not parametrization.depth_exponent else []
    parts += [f"init {parametrization.init.replace('_', ' ')}"]
    parts += ["zero query"] if parametrization.zero_query else []
    return ", ".join(parts)


def _show_numbers(out: Console, study: Study, numbers: ShapeNumbers, shown: list[str]) -> None:
    shape, kinds = numbers.shape, [line.kind for line in numbers.lines]
    rows = []
    for line in numbers.lines:
        label = line.kind if kinds.count(line.kind) == 1 else f"{line.kind}: {', '.join(line.tensors)}"
        cells = [*(getattr(line.row, c) for c in shown), line.learning_rate, line.decay, line.eps]
        rows.append([label, *("-" if cell is None else f"{cell:.4g}" for cell in cells)])
    multipliers = f"attention x {numbers.attention:.4g}, logits x {numbers.logits:.4g}"
    title = f"d = {shape.d_model}, L = {shape.n_layers}: {multipliers}"
    rates = [f"lr {study.optimizer.name}", "decay an update", "epsilon"]
    out.print(table(title, ["class", *(HEADINGS[c] for c in shown), *rates], rows))
