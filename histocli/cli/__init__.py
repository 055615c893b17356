"""The command line: one file per command, which turns options into a config, calls the command and shows the result."""

# Importing a file registers its command; this is the order of the help.
# isort: off
from histocli.cli import download, balance, train, tune, evaluate, predict, export, plot, report, runs, data, demo  # noqa: F401
from histocli.cli.app import app
# isort: on

__all__ = ["app"]
