"""Accuracy on a task: the law, its first step, and the sigmoid of its second."""

from sweepctl.laws.downstream.law import LAW, Options, fit, gather, predict, trailing

__all__ = ["LAW", "Options", "fit", "gather", "predict", "trailing"]
