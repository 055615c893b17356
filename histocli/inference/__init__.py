"""Scoring: checkpoints at work on patches, and what is written of it."""
