"""Every law by its name."""

from __future__ import annotations

from sweepctl.laws import compute, critical_batch, envelope, hyperparameters, isoflop, parametric
from sweepctl.laws.law import Law

_MODULES = (
    envelope,
    isoflop,
    parametric,
    hyperparameters,
    critical_batch,
    compute,
)
LAWS: dict[str, Law] = {module.LAW.name: module.LAW for module in _MODULES}
