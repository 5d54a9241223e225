"""Plan held against store -> what is missing -> dispatched; states and cancelling."""
