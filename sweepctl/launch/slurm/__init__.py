"""The Slurm launcher: what to submit, the records of it, and what runs inside a task."""
