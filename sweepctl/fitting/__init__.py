"""A table to observations, observations to fits, and fits kept beside their sweep."""
