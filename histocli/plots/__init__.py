"""Plots of reports: one module per kind of report, one shared style."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from histocli.errors import HistoError
from histocli.workspace import make_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._…-]{0,199}")


class MissingInputError(HistoError):
    """The file that a kind of plot is drawn from does not exist."""


class Plot(NamedTuple):
    """A plot to draw: the name of its file without extension, its size in inches, and the function that draws it."""

    stem: str
    width: float
    height: float
    draw: "Callable[[Figure], None]"

    @property
    def file_stem(self) -> str:
        """The name of the file, which is never in another folder: a record may name a data set such as `../x`."""
        return self.stem if _FILE_NAME.fullmatch(self.stem) else make_name(self.stem)
