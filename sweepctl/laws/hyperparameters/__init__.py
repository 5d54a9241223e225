"""Learning rate and batch: the law, optima by cell, power laws through them, and the cost of a rule."""

from sweepctl.laws.hyperparameters.law import LAW, Options, fit, predict

__all__ = ["LAW", "Options", "fit", "predict"]
