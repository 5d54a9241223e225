"""Every law by its name."""

from __future__ import annotations

from sweepctl.laws import critical_batch, hyperparameters, isoflop, parametric
from sweepctl.laws.law import Law

LAWS: dict[str, Law] = {
    law.name: law for law in (critical_batch.LAW, hyperparameters.LAW, isoflop.LAW, parametric.LAW)
}
