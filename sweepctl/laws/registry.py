"""Every law by its name."""

from __future__ import annotations

from sweepctl.laws import downstream, isoflop, overtraining, parametric
from sweepctl.laws.law import Law

LAWS: dict[str, Law] = {
    law.name: law for law in (isoflop.LAW, parametric.LAW, overtraining.LAW, downstream.LAW)
}
