"""Training: a run, its trainer, and what it leaves."""
