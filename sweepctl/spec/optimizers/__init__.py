"""Optimizers: one module a kind, found by being here."""
