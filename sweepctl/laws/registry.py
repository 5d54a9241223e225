"""Every law by its name."""

from __future__ import annotations

from sweepctl.laws import (
    compare,
    compute,
    critical_batch,
    curve,
    downstream,
    envelope,
    hyperparameters,
    isoflop,
    overtraining,
    parametric,
)
from sweepctl.laws.law import Law

_MODULES = (
    envelope,
    isoflop,
    parametric,
    hyperparameters,
    critical_batch,
    overtraining,
    downstream,
    compute,
    curve,
    compare,
)
LAWS: dict[str, Law] = {module.LAW.name: module.LAW for module in _MODULES}
