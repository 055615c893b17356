"""The `histo` executable: options -> a config -> one command -> a rendered result."""

# Importing them registers their commands, in the order in which help lists them.
# isort: off
from histocli.cli import data, train, scores, export, plot  # noqa: F401
from histocli.cli.app import app
# isort: on

__all__ = ["app"]
