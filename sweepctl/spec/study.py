"""The study: what the user asked for, composed once, typed and validated."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from sweepctl.errors import InvalidValue
from sweepctl.spec.accounting import Accounting
from sweepctl.spec.budget import Budgets
from sweepctl.spec.corpus import Validation
from sweepctl.spec.grid import Grid
from sweepctl.spec.ladder import Ladder
from sweepctl.spec.model import Architecture
from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.parametrization import Parametrization
from sweepctl.spec.scaling import Scaling
from sweepctl.spec.schedules.schedule import Schedule
from sweepctl.spec.science import Batch, Divergence, Seeds

TRAINERS = ("builtin",)
"""What a study can name as its trainer; `train.registry` makes them."""
RESERVED = ("store", "data", "checks")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def is_name(name: str) -> bool:
    """Whether this could be a folder of the workspace."""
    return _NAME.fullmatch(name) is not None and name not in RESERVED


def check_name(key: str, name: str) -> None:
    """Raises InvalidValue where a name could not be a folder of the workspace."""
    if name == "???":
        raise InvalidValue(key, name, "given")
    if not is_name(name):
        raise InvalidValue(
            key, name, f"letters, digits, - and _, at most 64, and none of {', '.join(RESERVED)}"
        )


@dataclass(frozen=True, slots=True)
class Data:
    """Which corpus, and how it is made where it is built in."""

    name: str
    """Of its folder in the workspace."""
    source: Literal["prepared", "pysrc", "synthetic"]
    """Who makes it."""
    hash: str | None = None
    """Pins the content: a plan with other content is refused."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of a source that is built in."""

    def __post_init__(self) -> None:
        check_name("name", self.name)


@dataclass(frozen=True, slots=True)
class Take:
    """A field whose value comes from an earlier stage."""

    stage: str
    """That stage."""
    rule: Literal["parabola", "argmin"] = "parabola"
    """The vertex of a parabola through log value and loss, or the grid value with the lowest loss there."""
    factors: tuple[float, ...] = ()
    """Multiples of the value that are trained, 1 among them, to see what it costs to have it from there; with
    no budget of the stage's own, at the shortest of the study's."""

    def __post_init__(self) -> None:
        positive = all(factor > 0 for factor in self.factors) and len(set(self.factors)) == len(self.factors)
        if self.factors and not (positive and 1.0 in self.factors and len(self.factors) > 1):
            raise InvalidValue(
                "factors", list(self.factors), "two or more different numbers above 0, 1 among them"
            )


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the study that is planned on its own. Null means the study's own."""

    rungs: tuple[int, ...] | None = None
    """Places in the ladder."""
    grid: Grid | None = None
    """Its axes."""
    budget: Budgets | None = None
    """What its points are trained for."""
    take: dict[str, Take] = field(default_factory=dict)
    """Field -> where its value comes from."""
    predict_first: bool = False
    """Holds its jobs back until a prediction of them is written down."""
    fit: bool = True
    """False keeps its runs out of the laws (a grid that only chooses a value)."""


@dataclass(frozen=True, slots=True)
class Study:
    """Everything a plan is made from."""

    name: str
    """Of the study, and of its sweep."""
    ladder: Ladder
    """The shapes."""
    model: Architecture
    """What they have in common."""
    parametrization: Parametrization
    """How rates and initialization follow the shape."""
    optimizer: Optimizer
    """With the rates of the base shape."""
    schedule: Schedule
    """Of the learning rate."""
    batch: Batch
    """Tokens of an update, and of a sequence."""
    data: Data
    """The corpus."""
    budget: Budgets
    """What every point is trained for."""
    validation: Validation
    """What is held out for losses."""
    grid: Grid = Grid()
    """Axes of the points."""
    seed: Seeds = Seeds()
    """Of initialization and data."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the arithmetic."""
    divergence: Divergence = Divergence()
    """When a run is given up."""
    accounting: Accounting = Accounting()
    """How N and C are counted."""
    trainer: str = "builtin"
    """Who trains."""
    stages: dict[str, Stage] = field(default_factory=dict)
    """Parts that are planned on their own, in order."""
    scaling: Scaling = Scaling()
    """Fields by formula of the rung."""

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if self.trainer not in TRAINERS:
            raise InvalidValue("trainer", self.trainer, "one of " + ", ".join(TRAINERS))
        earlier: list[str] = []
        for name, stage in self.stages.items():
            check_name("stages", name)
            for path, take in stage.take.items():
                if take.stage not in earlier:
                    raise InvalidValue(
                        f"stages.{name}.take.{path}",
                        take.stage,
                        f"an earlier stage ({', '.join(earlier) or 'none'})",
                    )
            earlier.append(name)

    @property
    def all_stages(self) -> dict[str, Stage]:
        """The study's stages; one called `all` where it has none."""
        return self.stages or {"all": Stage()}
