"""What to expect of runs that do not exist yet, written down, and held against what came."""
