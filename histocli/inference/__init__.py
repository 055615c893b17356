"""Score patches with checkpoints, and write the scores."""
