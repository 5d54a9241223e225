"""Job folders: records, wishes, attempts and checkpoints. The only room that knows the layout on disk."""
