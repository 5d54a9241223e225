"""The study: what the user asked for, composed once, typed and validated."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from sweepctl.errors import InvalidValue
from sweepctl.spec.accounting import Accounting
from sweepctl.spec.budget import Budgets
from sweepctl.spec.grid import Grid
from sweepctl.spec.ladder import Ladder
from sweepctl.spec.model import Architecture
from sweepctl.spec.optimizer import Optimizer
from sweepctl.spec.parametrization import Parametrization
from sweepctl.spec.scaling import Scaling
from sweepctl.spec.schedules.schedule import Schedule
from sweepctl.spec.science import Batch, Divergence, Seeds

RESERVED = ("store", "data", "checks")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_name(key: str, name: str) -> None:
    """Raises InvalidValue where a name could not be a folder of the workspace."""
    if name == "???":
        raise InvalidValue(key, name, "given")
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise InvalidValue(
            key, name, f"letters, digits, - and _, at most 64, and none of {', '.join(RESERVED)}"
        )


@dataclass(frozen=True, slots=True)
class Data:
    """Which corpus, by the name of its folder in the workspace, and how it is made where it is built in.

    `hash` pins the content: a plan with other content is refused.
    """

    name: str
    source: Literal["prepared", "pysrc", "synthetic"] = "prepared"
    hash: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("name", self.name)


@dataclass(frozen=True, slots=True)
class Validation:
    """Held-out tokens: for a final loss (0 for the whole split), and for the points along a curve.

    Curve points lie at the same tokens for every point: `curve_per_octave` a doubling.
    """

    tokens: int = 0
    curve_tokens: int = 16384
    curve_per_octave: int = 4

    def __post_init__(self) -> None:
        for key in ("tokens", "curve_tokens", "curve_per_octave"):
            if getattr(self, key) < 0:
                raise InvalidValue(key, getattr(self, key), "at least 0")


@dataclass(frozen=True, slots=True)
class Take:
    """A field whose value comes from an earlier stage: the grid value with the lowest loss there (`argmin`),
    or the vertex of a parabola through log value and loss (`parabola`)."""

    stage: str
    rule: Literal["argmin", "parabola"] = "argmin"


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the study that is planned on its own. Null means the study's own.

    `predict_first` holds its jobs back until a prediction of them is written down; `fit: false` keeps its
    runs out of the laws (a grid that only chooses a value).
    """

    rungs: tuple[int, ...] | None = None
    grid: Grid | None = None
    budget: Budgets | None = None
    take: dict[str, Take] = field(default_factory=dict)
    predict_first: bool = False
    fit: bool = True


@dataclass(frozen=True, slots=True)
class Study:
    """Everything a plan is made from."""

    name: str
    ladder: Ladder
    model: Architecture
    parametrization: Parametrization
    optimizer: Optimizer
    schedule: Schedule
    batch: Batch
    data: Data
    budget: Budgets
    validation: Validation = Validation()
    grid: Grid = Grid()
    seed: Seeds = Seeds()
    precision: Literal["fp32", "bf16"] = "fp32"
    divergence: Divergence = Divergence()
    accounting: Accounting = Accounting()
    trainer: Literal["builtin"] = "builtin"
    stages: dict[str, Stage] = field(default_factory=dict)
    scaling: Scaling = Scaling()

    def __post_init__(self) -> None:
        check_name("name", self.name)
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
