"""The `histo` executable: options -> a config -> one command -> a rendered result."""

# Importing them registers their commands, in the order in which help lists them.
# isort: off
from histocli.cli import download, balance, train, evaluate, predict, export, plot, demo  # noqa: F401
from histocli.cli.app import app
# isort: on

__all__ = ["app"]
