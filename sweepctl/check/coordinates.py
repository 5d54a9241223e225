"""The coordinate check (Yang et al. 2022, arXiv 2203.03466, appendix D.1): trains a study's own model for a
few updates at several widths, and holds the growth of activations and updates against none at all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sweepctl.check.slopes import FIRST_JUDGED, FLAT, Slope, slopes
from sweepctl.check.verdicts import CheckedRecipe
from sweepctl.data.shards import CorpusIndex
from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec.build import plain
from sweepctl.spec.execution import Execution
from sweepctl.spec.model import Shape
from sweepctl.spec.science import Batch, Corpus, Point, Seeds
from sweepctl.spec.study import Study
from sweepctl.store.workspace import Workspace
from sweepctl.train.batches import Batches
from sweepctl.train.builtin import BuiltinTrainer
from sweepctl.train.device import machine
from sweepctl.train.measurements import Measurement, measure

TOKENS, CONTEXT = 1024, 128
"""The largest batch that is trained on: the study's own where it is smaller."""
SMALLEST, DOUBLINGS, DEEPEST = 32, 3, 4
"""Default widths begin at the first possible one of at least 32 units; the default depth is the base's, but
at most 4."""

ROUNDS = 4
"""While nothing breaks but something is unclear the seeds are doubled, up to so many rounds: one of a hundred
slopes easily strays by 0.1 where there are few models."""

Progress = Callable[[int, int], None]
"""Takes how many of how many models are measured."""


@dataclass(frozen=True, slots=True)
class CoordinateRequest:
    """What is trained: either `widths` or `depths` are several."""

    widths: tuple[int, ...]
    """d_model of the models."""
    depths: tuple[int, ...]
    """Their layers."""
    steps: tuple[int, ...] = (1, 2, 4, 8)
    """Updates after which the models are measured."""
    seeds: int = 3
    """Models of each size at first; more follow while the verdict is not resolved."""

    def __post_init__(self) -> None:
        for option in ("widths", "depths", "steps"):
            values = getattr(self, option)
            if not values or min(values) < 1 or len(set(values)) < len(values):
                raise InvalidValue(f"--{option}", values, "different whole numbers of at least 1")
        if (len(self.widths) > 1) == (len(self.depths) > 1):
            raise RequestError(
                "A slope needs several widths at one depth, or several depths at one width; got "
                f"--widths {_list(self.widths)} and --depths {_list(self.depths)}."
            )
        if max(self.steps) < FIRST_JUDGED:
            raise InvalidValue(
                "--steps", _list(self.steps), f"up to at least {FIRST_JUDGED}: the first update is not judged"
            )
        if self.seeds < 1:
            raise InvalidValue("--seeds", self.seeds, "at least 1")

    @property
    def axis(self) -> str:
        return "width" if len(self.widths) > 1 else "depth"


@dataclass(frozen=True, slots=True)
class Setting:
    """How the models are trained."""

    lr: float
    """The learning rate, constant and without warmup."""
    batch: Batch
    """Of every update."""
    own_batch: Batch
    """The study's, which may be larger."""
    device: str
    """Where they are trained."""


@dataclass(frozen=True, slots=True)
class CoordinateResult:
    """The check's outcome."""

    request: CoordinateRequest
    """What was asked for."""
    seeds: int
    """How many of every size it took."""
    recipe: CheckedRecipe
    """What the verdict is about."""
    sizes: tuple[int, ...]
    """The widths or depths, rising; a slope's values go by them."""
    slopes: tuple[Slope, ...]
    """Of every quantity at every step."""
    setting: Setting
    """How the models were trained."""

    @property
    def holds(self) -> bool:
        return all(slope.holds for slope in self.slopes)

    @property
    def resolved(self) -> bool:
        """Whether it holds or something breaks beyond doubt."""
        return self.holds or any(slope.breaks for slope in self.slopes)

    @property
    def broken(self) -> list[str]:
        """What does not hold, in words, causes before consequences: for every tensor its worst layer."""
        worst: dict[tuple[str, str], Slope] = {}
        layers: dict[tuple[str, str], set[str]] = {}
        for slope in self.slopes:
            at = (slope.kind, slope.part)
            if not slope.holds:
                layers.setdefault(at, set()).add(slope.layer)
                if at not in worst or (slope.breaks, slope.off) > (worst[at].breaks, worst[at].off):
                    worst[at] = slope
        order = {"update": 0, "change": 1, "activation": 2}
        ranked = sorted(worst.items(), key=lambda item: (item[1].unclear, order[item[1].kind], -item[1].off))
        return [self._sentence(slope, len(layers[at]) - 1) for at, slope in ranked]

    def _sentence(self, slope: Slope, others: int) -> str:
        what = {"update": "updates", "change": "change", "activation": "activations"}[slope.kind]
        more = f" (and in {others} other layer{'s' * (others > 1)})" if others else ""
        if slope.slope is None:
            at = next(s for s, value in zip(self.sizes, slope.values, strict=True) if not value)
            return (
                f"{slope.name}'s {what}: 0 or not finite at {self.request.axis} {at}, step {slope.step}{more}"
            )
        grow = "grow" if slope.slope > 0 else "shrink"
        grow = f"may {grow}" if slope.unclear else grow + "s" * (slope.kind == "change")
        power = f"{self.request.axis}^{slope.slope:.2f}"
        if slope.low is not None and slope.unclear:
            power += f" ({slope.low:.2f} to {slope.high:.2f})"
        return f"{slope.name}'s {what} {grow} like {power} at step {slope.step}{more}"

    def record(self) -> dict[str, Any]:
        """The verdict as JSON, with every number behind it."""
        return {
            "check": "coordinates",
            "holds": self.holds,
            "resolved": self.resolved,
            "broken": self.broken,
            "hash": self.recipe.hash,
            "axis": self.request.axis,
            "sizes": list(self.sizes),
            "flat_within": FLAT,
            **plain(self.request),
            "seeds": self.seeds,
            **plain(self.setting),
            "subject": self.recipe.record(),
            "slopes": [{**plain(slope), "holds": slope.holds} for slope in self.slopes],
        }


def request_of(
    study: Study, widths: tuple[int, ...], depths: tuple[int, ...], steps: tuple[int, ...], seeds: int
) -> CoordinateRequest:
    """The request with what was left open: widths by the ladder's head size, the parametrization's depth."""
    rule, shared = study.ladder.rule(), study.model.queries_per_kv
    assert rule.head_size is not None
    unit = rule.head_size * shared
    first = unit * math.ceil(SMALLEST / unit)
    if not widths:
        widths = (2 * first,) if len(depths) > 1 else tuple(first << i for i in range(DOUBLINGS + 1))
    return CoordinateRequest(
        widths, depths or (min(DEEPEST, study.parametrization.base_n_layers),), steps, seeds
    )


def check(
    workspace: Workspace,
    study: Study,
    index: CorpusIndex,
    request: CoordinateRequest,
    execution: Execution,
    progress: Progress,
) -> CoordinateResult:
    """Train and measure every size and seed, and more seeds until the verdict is resolved.

    Raises:
        RequestError: a width does not fit the ladder's heads, or the data is not there.
    """
    shapes = [shape_of(study, w, d) for w in request.widths for d in request.depths]
    if execution.compile == "auto":  # a few updates of each of many sizes take less time than compiling one
        execution = dataclasses.replace(execution, compile=False)
    batch, where = small_batch(study.batch), machine(execution, "fp32")
    setting = Setting(study.optimizer.lr, batch, study.batch, where.name)
    recipe = CheckedRecipe(study.model, study.parametrization, study.optimizer)
    zero_head = study.parametrization.zero_head and not study.model.tied
    measurements: list[tuple[int, Measurement]] = []
    done = 0
    while True:
        seeds = 2 * done or request.seeds
        for seed in range(done, seeds):
            for number, shape in enumerate(shapes):
                progress(seed * len(shapes) + number, seeds * len(shapes))
                point = _point(study, index, shape, batch, seed)
                trainer = BuiltinTrainer(
                    point, Batches(workspace.corpus(study.data.name), point), where, execution
                )
                measurements += _sized(measure(trainer, request.steps), shape, request.axis)
        done = seeds
        sizes, fitted = slopes(measurements, request.axis, zero_head)
        result = CoordinateResult(request, seeds, recipe, sizes, tuple(fitted), setting)
        if result.resolved or seeds >= request.seeds << (ROUNDS - 1):
            return result


def shape_of(study: Study, width: int, depth: int) -> Shape:
    """The ladder's head size and ratio of d_ff at this width and depth.

    Raises:
        InvalidValue: the width is not made of whole heads.
    """
    rule = study.ladder.rule()
    assert rule.head_size is not None and rule.d_ff_ratio is not None
    if width % rule.head_size:
        raise InvalidValue("--widths", width, f"a multiple of the ladder's head size of {rule.head_size}")
    return Shape(width, depth, width // rule.head_size, round(rule.d_ff_ratio * width))


def small_batch(own: Batch) -> Batch:
    """The study's batch, cut down to what a few updates of many models can be afforded with."""
    context = min(own.context, CONTEXT)
    return Batch(min(own.rows, TOKENS // context) * context, context)


def _point(study: Study, index: CorpusIndex, shape: Shape, batch: Batch, seed: int) -> Point:
    """fp32 whatever the study's precision: in bf16 rounding would hide the first changes."""
    return Point(
        shape=shape,
        model=study.model,
        parametrization=study.parametrization,
        optimizer=study.optimizer,
        warmup_steps=0,
        batch=batch,
        corpus=Corpus(index.hash, index.vocab_size),
        seed=Seeds(study.seed.init + seed, study.seed.data + seed),
        trainer=study.trainer,
    )


def _sized(measurements: Iterable[Measurement], shape: Shape, axis: str) -> Iterator[tuple[int, Measurement]]:
    """Measurements with the width or depth they belong to. Against depth only the first and the last block
    can be compared, and are named so."""
    for measurement in measurements:
        parts = measurement.name.split(".")
        if axis == "width":
            yield shape.d_model, measurement
        elif parts[0] != "blocks":
            yield shape.n_layers, measurement
        else:
            for layer, place in ((0, "first"), (shape.n_layers - 1, "last")):
                if int(parts[1]) == layer:
                    name = ".".join(["blocks", place, *parts[2:]])
                    yield shape.n_layers, dataclasses.replace(measurement, name=name)


def _list(values: tuple[int, ...]) -> str:
    return ",".join(str(value) for value in values)
