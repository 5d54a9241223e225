"""Text to token shards, and the seeded order in which training reads them."""
