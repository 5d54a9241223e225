"""The study as typed, validated dataclasses, and the arithmetic of ladders, grids, budgets and counts."""
