"""Critical batch size: the law, and the curve of steps against batch."""

from sweepctl.laws.critical_batch.law import DEFINITIONS, LAW, Options, fit, predict

__all__ = ["DEFINITIONS", "LAW", "Options", "fit", "predict"]
