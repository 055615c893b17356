"""Listeners, which receive the messages and the progress of a command while it works."""

import warnings

from histocli.errors import HistoError


class CommandListener:
    """Receives the messages and the progress of a command; this base class ignores them."""

    def on_note(self, message: str) -> None:
        """Called with something that the user should know, such as the checkpoint that is used."""

    def on_warning(self, message: str) -> None:
        """Called with something that may make the result wrong or incomplete."""

    def on_transfer(self, name: str, done: int, total: int | None) -> None:
        """Called while a file is downloaded or unpacked: its bytes so far, and in all; None if this is not known."""

    def on_total(self, total: int | None) -> None:
        """Called before the first patch with the number of patches of this process; None if it is not known."""

    def on_progress(self, done: int) -> None:
        """Called with the number of patches that are done so far."""

    def on_unreadable(self, error: HistoError) -> None:
        """Called with the error of each patch that cannot be read, and is skipped and counted."""

    def on_remark(self, what: str, example: str) -> None:
        """Called once for each kind of change or guess, with the first image to which it applies."""


class WarningListener(CommandListener):
    """Gives warnings and unreadable patches to the module `warnings`, as a Python library does."""

    def on_warning(self, message: str) -> None:
        """Warn."""
        warnings.warn(message, stacklevel=2)

    def on_unreadable(self, error: HistoError) -> None:
        """Warn of the patch."""
        warnings.warn(str(error), stacklevel=2)

    def on_remark(self, what: str, example: str) -> None:
        """Warn of the first image."""
        warnings.warn(f"{example}: {what}", stacklevel=2)


SILENT = CommandListener()
