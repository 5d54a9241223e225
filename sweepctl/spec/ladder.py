"""Ladders: a family of shapes, by rule (aspect ratio, head size, d_ff ratio) or by table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec.accounting import hidden_parameters
from sweepctl.spec.model import Architecture, Shape

MAX_LAYERS = 1000
"""The deepest shape a rule looks at when it is asked for a parameter count."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """Either a rule with rungs by `depths`, `widths` or `params`, or an explicit `table` of shapes.

    The rule: d_model = aspect x n_layers rounded to whole heads of `head_size`, and
    d_ff = d_ff_ratio x d_model rounded up to a multiple of `d_ff_multiple`.
    """

    aspect: float | None = None
    """d_model over n_layers."""
    head_size: int | None = None
    """Units of a head."""
    d_ff_ratio: float | None = None
    """d_ff over d_model."""
    d_ff_multiple: int = 1
    """What d_ff is rounded up to."""
    depths: tuple[int, ...] = ()
    """Layers of each rung."""
    widths: tuple[int, ...] = ()
    """d_model of each rung."""
    params: tuple[float, ...] = ()
    """Parameters of each rung, without embeddings and head; the nearest shape of the rule is taken."""
    table: tuple[Shape, ...] = ()
    """The shapes themselves."""

    def __post_init__(self) -> None:
        lists = [key for key in ("depths", "widths", "params", "table") if getattr(self, key)]
        if len(lists) != 1:
            raise InvalidValue(
                "", lists or "no rungs", "exactly one non-empty list of depths, widths, params and table"
            )
        for key in ("aspect", "head_size", "d_ff_ratio"):
            value = getattr(self, key)
            if value is None and not self.table:
                raise InvalidValue(key, value, "a number above 0, for a ladder by rule")
            if value is not None and value <= 0:
                raise InvalidValue(key, value, "above 0")
        for key in ("depths", "widths", "params"):
            for value in getattr(self, key):
                if value < 1:
                    raise InvalidValue(key, list(getattr(self, key)), "a list of numbers of at least 1")
        if self.d_ff_multiple < 1:
            raise InvalidValue("d_ff_multiple", self.d_ff_multiple, "at least 1")

    def shapes(self, model: Architecture) -> list[Shape]:
        """The rungs, in the order they were given."""
        if self.table:
            shapes = list(self.table)
        elif self.depths:
            shapes = [self.by_depth(depth) for depth in self.depths]
        elif self.widths:
            shapes = [self.by_width(width) for width in self.widths]
        else:
            shapes = [self.by_size(target, lambda s: hidden_parameters(s, model)) for target in self.params]
        first: dict[str, int] = {}
        for index, shape in enumerate(shapes):
            if shape.name in first and shape in shapes[:index]:
                raise RequestError(
                    f"ladder: rungs {first[shape.name]} and {index} are the same shape {shape.name}; "
                    "space them further apart."
                )
            first.setdefault(shape.name, index)
        return shapes

    def rule(self) -> Ladder:
        """This ladder as a rule; of a table, the median aspect, head size and d_ff ratio of its shapes."""
        if not self.table:
            return self
        return Ladder(
            aspect=median(shape.d_model / shape.n_layers for shape in self.table),
            head_size=round(median(shape.head_size for shape in self.table)),
            d_ff_ratio=median(shape.d_ff / shape.d_model for shape in self.table),
            depths=(1,),
        )

    def by_depth(self, n_layers: int) -> Shape:
        """The rule's shape of that depth."""
        assert self.aspect is not None
        return self._shape(self.aspect * n_layers, n_layers)

    def by_width(self, d_model: int) -> Shape:
        """The rule's shape of that width; its depth is width / aspect, at least one layer."""
        assert self.aspect is not None and self.head_size is not None
        if d_model % self.head_size:
            raise InvalidValue("ladder.widths", d_model, f"a multiple of head_size={self.head_size}")
        return self._shape(d_model, max(1, round(d_model / self.aspect)))

    def by_size(self, target: float, size: Callable[[Shape], float]) -> Shape:
        """The rule's shape whose `size` is closest to `target`, by ratio.

        Raises:
            InvalidValue: `size` refused every shape, as one whose heads cannot share keys.
        """
        best: tuple[float, Shape] | None = None
        refused: InvalidValue | None = None
        for n_layers in range(1, MAX_LAYERS + 1):
            shape = self.by_depth(n_layers)
            try:
                count = size(shape)
            except InvalidValue as error:
                refused = refused or error
                continue
            miss = abs(math.log(count / target))
            if best is None or miss < best[0]:
                best = (miss, shape)
            if count > target:
                break
        if best is None:
            assert refused is not None
            raise refused
        return best[1]

    def _shape(self, d_model: float, n_layers: int) -> Shape:
        assert self.head_size is not None and self.d_ff_ratio is not None
        heads = max(1, round(d_model / self.head_size))
        width = heads * self.head_size
        d_ff = math.ceil(self.d_ff_ratio * width / self.d_ff_multiple - 1e-9) * self.d_ff_multiple
        return Shape(d_model=width, n_layers=n_layers, n_heads=heads, d_ff=d_ff)
