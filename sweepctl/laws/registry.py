"""Every law by its name."""

from __future__ import annotations

from sweepctl.laws import compute, envelope, isoflop, parametric
from sweepctl.laws.law import Law

LAWS: dict[str, Law] = {law.name: law for law in (compute.LAW, envelope.LAW, isoflop.LAW, parametric.LAW)}
