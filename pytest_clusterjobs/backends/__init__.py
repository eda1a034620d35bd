"""One file per scheduler: its language, and nothing else."""
