"""Many small fits at once, as arrays: least squares, profiles, batched descent."""
