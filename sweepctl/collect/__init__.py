"""Store to tables."""
