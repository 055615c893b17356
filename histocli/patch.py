"""A patch, as it is passed between the layers: how to load its pixels, and what is known of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Pixels: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"

PATCH_SIDE = 96  # pixels
PATCH_SHAPE = (PATCH_SIDE, PATCH_SIDE, 3)
CENTRE = slice(32, 64)  # the central 32x32 pixels, which decide the label


class PortableLoader:
    """The base of objects that load a patch, and can be sent to another process to do so."""

    __slots__ = ()


class Position(NamedTuple):
    """The position of a patch in its slide: the upper left corner of its central 32x32, in level-0 pixels.

    `mpp_x` and `mpp_y` are the micrometres per level-0 pixel.
    """

    x: int
    y: int
    mpp_x: float
    mpp_y: float


class Patch(NamedTuple):
    """A patch that a source yields.

    `load` returns its pixels (96,96,3), uint8, RGB. It is called once, on a worker thread, and raises `HistoError` if
    the patch cannot be read. `label` is 1 if the central 32x32 pixels contain tumour, 0 if not, None if not known.
    `path` is the path of the file for the user. `position` is its position in its slide, None if it is not known.
    """

    id: str
    load: "Callable[[], Pixels]"
    label: int | None = None
    slide: str = ""
    split: str = ""
    hospital: str = ""
    path: str = ""
    position: Position | None = None
