"""sweepctl: plan, train, fit and predict LLM scaling sweeps."""

__version__ = "0.1.0"
