"""What several laws have in common, and nothing that one alone needs."""
