"""One job in, records and checkpoints out. The only room that imports torch."""
