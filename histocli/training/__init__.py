"""Train networks: runs, the trainer, and the files of a run."""
