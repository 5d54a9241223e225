"""What laws in two steps share: which rows each step fits, and how far off the chain is where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweepctl.laws.numerics.linear import scatters
from sweepctl.laws.observations import CannotFit, Floats, Mask, Observations

FIT, TASK, TARGET = "fit", "task", "target"
ROLES = {
    FIT: "both steps are fitted to it",
    TASK: "only the second step is fitted to it",
    TARGET: "it is only predicted",
}
"""What the column `role` may say of a row. Llama 3 (arXiv 2407.21783, section 3.2.1) and Gadre et al. (arXiv
2403.08540, section 3) fit the second step to models that the first one leaves out."""


@dataclass(frozen=True)
class Checked:
    """One quantity of one row that the law was not fitted to."""

    row: str
    """Its name."""
    n: float
    """Parameters."""
    d: float
    """Tokens."""
    quantity: str
    """What is compared."""
    predicted: float
    """What the law said."""
    actual: float
    """What was measured."""

    def record(self) -> dict[str, Any]:
        """For a fit's details; `error` is predicted over actual, minus one (NaN where the latter is 0)."""
        error = self.predicted / self.actual - 1 if self.actual else float("nan")
        return {
            "row": self.row, "n": self.n, "d": self.d, "quantity": self.quantity,
            "predicted": self.predicted, "actual": self.actual, "error": error,
        }  # fmt: skip


def roles(data: Observations) -> dict[str, Mask]:
    """Role -> which rows have it [rows]; every row is fitted where no column says otherwise.

    Raises:
        CannotFit: the column says something else, or no row is fitted.
    """
    named = np.array(data.labels.get("role", (FIT,) * len(data)), dtype=object)
    unknown = sorted({str(name) for name in named} - set(ROLES))
    if unknown:
        raise CannotFit(f"A row's role is {', '.join(ROLES)}; one is {unknown[0]!r}.")
    masks = {role: np.asarray(named == role, dtype=bool) for role in ROLES}
    if not masks[FIT].any():
        raise CannotFit(f"None of the {len(data)} rows has the role fit.")
    return masks


def mean_errors(checked: Sequence[Checked]) -> dict[str, float]:
    """Mean relative error, without its sign, of every quantity over the target rows."""
    errors: dict[str, list[float]] = {}
    for row in checked:
        if row.actual and np.isfinite(row.predicted):
            errors.setdefault(row.quantity, []).append(abs(row.predicted / row.actual - 1))
    return {"error_of_" + name.replace(" ", "_"): float(np.mean(all_)) for name, all_ in errors.items()}


def spread(squares: float, freedom: int, replicates: int, seed: int) -> tuple[float, Floats]:
    """The standard deviation of a scatter, from its sum of squares, and draws of it [replicates]."""
    draw = np.random.Generator(np.random.PCG64(seed))
    return float(np.sqrt(squares / max(1, freedom))), scatters(squares, freedom, replicates, draw)
