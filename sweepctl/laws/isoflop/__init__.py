"""Method 2, isoFLOP: the law, its options, and the budgets with their minima."""

from sweepctl.laws.isoflop.law import LAW, fit, predict
from sweepctl.laws.isoflop.options import Options

__all__ = ["LAW", "Options", "fit", "predict"]
