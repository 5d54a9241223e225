"""What a coordinate check was about, where its verdict is kept, and the gate before a launch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweepctl.errors import DamagedFile, RequestError
from sweepctl.plan.plan import Plan
from sweepctl.spec.hashing import canonical, digest
from sweepctl.spec.model import Architecture
from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.parametrization import Parametrization
from sweepctl.spec.science import NUMERICS, section
from sweepctl.store.files import read_json, storage, write_json
from sweepctl.store.workspace import Workspace

RATES = ("lr", "adamw_lr")
"""Left out of what is checked: the powers of the width do not depend on them, and a grid of rates would want
a check for each. The record says at which rate it was made."""
_SECTIONS = ("model.", "parametrization.", "optimizer.")


@dataclass(frozen=True, slots=True)
class CheckedRecipe:
    """What the verdict depends on, beside the trainer's numerics; not shapes, seeds, data and batch."""

    model: Architecture
    """The architecture without its shape."""
    parametrization: Parametrization
    """The rules that scale it."""
    optimizer: Optimizer
    """Its rates are left out."""

    def record(self) -> dict[str, Any]:
        optimizer = section("optimizer", self.optimizer)
        return {
            "model": section("model", self.model),
            "parametrization": section("parametrization", self.parametrization),
            "optimizer": {key: value for key, value in optimizer.items() if key not in RATES},
            "numerics": NUMERICS,
        }

    @property
    def hash(self) -> str:
        return digest(canonical(self.record()))


def record_path(workspace: Workspace, recipe: CheckedRecipe, axis: str = "width") -> Path:
    """Where the newest verdict is. Against depth it has a name of its own: it stands for no other."""
    depth = "depth-" if axis == "depth" else ""
    return workspace.root / "checks" / f"coordinates-{depth}{recipe.hash}.json"


def keep(path: Path, verdict: dict[str, Any]) -> None:
    """Write a verdict in place of an earlier one."""
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, verdict)


def require(workspace: Workspace, plans: Iterable[Plan]) -> None:
    """Raises RequestError unless a coordinate check that holds is recorded for every model, parametrization
    and optimizer of the plans; it names the command that makes one, or what failed."""
    required: set[str] = set()
    for plan in plans:
        for index in range(len(plan.points)):
            point = plan.point(index)
            recipe = CheckedRecipe(point.model, point.parametrization, point.optimizer)
            if (recipe_hash := recipe.hash) not in required:
                required.add(recipe_hash)
                _require(workspace, recipe, plan, index)


def _require(workspace: Workspace, recipe: CheckedRecipe, plan: Plan, index: int) -> None:
    path = record_path(workspace, recipe)
    settings = {taken.field: taken.value for taken in plan.taken} | dict(plan.points[index].settings)
    own = [f"{name}={value}" for name, value in settings.items() if _checked(name)]
    command = " ".join(["sweepctl check coordinates", "<the study's overrides>", *own])
    try:
        verdict = read_json(path)
        holds, broken = verdict["holds"], [str(text) for text in verdict["broken"]]
    except (FileNotFoundError, DamagedFile, KeyError, TypeError):
        raise RequestError(
            f"No coordinate check of stage {plan.stage} of {plan.study} is recorded; run `{command}`."
        ) from None
    if not holds:
        what = broken[0] if broken else "it does not hold"
        raise RequestError(
            f"The coordinate check of stage {plan.stage} of {plan.study} failed ({path.name}): {what}; "
            f"change the parametrization, or check again with `{command}`."
        )


def _checked(name: str) -> bool:
    return name.startswith(_SECTIONS) and name.removeprefix("optimizer.") not in RATES
