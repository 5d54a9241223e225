"""Loss curves: the law, its forms, the runs of a table, and their learning rates."""

from sweepctl.laws.curve.law import LAW, Options, fit, predict

__all__ = ["LAW", "Options", "fit", "predict"]
