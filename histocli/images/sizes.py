"""The size of an image in its file's header, and the error for an image that cannot be decoded correctly."""

from typing import NamedTuple

from histocli.images import MAX_PIXELS


class ImageError(Exception):
    """An image that cannot be decoded correctly: the reason, as the end of a sentence, and what to do."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class Size(NamedTuple):
    """The size of an image in pixels."""

    width: int
    height: int


def check_pixels(width: int, height: int) -> None:
    """Raise `ImageError` if there are no pixels, or more than `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"the image has more than {MAX_PIXELS:,} pixels: {width:,} x {height:,}")
    if width < 1 or height < 1:
        raise ImageError("the image is damaged: its header gives no size")
