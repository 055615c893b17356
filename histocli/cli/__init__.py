"""The `histo` executable: options -> a config -> one command -> a rendered result."""

from histocli.cli import data, model, show  # noqa: F401 - importing them registers their commands
from histocli.cli.app import app, main

__all__ = ["app", "main"]
