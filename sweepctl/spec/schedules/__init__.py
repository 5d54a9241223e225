"""Learning-rate schedules: one module a kind, found by being here.

Budgets of a rung are the same run before their cuts, so what decides what a study costs is where a schedule
cuts, and that it does so without looking at the budget's length before.
"""
