"""Patches from image files and from the images of an array, loaded when they are needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from histocli.errors import HistoError
from histocli.files.file import File, read_bytes
from histocli.images.decode import Preparation, decode_patch, is_8_bit, prepare, read_values
from histocli.images.intensity import Ranges, Values, infer_ranges, pick_sample, to_uint8
from histocli.images.remarks import Remarks
from histocli.images.sizes import ImageError
from histocli.patch import Pixels, PortableLoader

_HEAD_BYTES = 256  # of a file, which nearly always show whether the values of the image have more than 8 bits


@dataclass(slots=True)
class ImageFile(PortableLoader):
    """Reads an image file and returns it as a patch (96,96,3); it can be sent to another process if `read` can."""

    name: str
    read: Callable[[], bytes]
    how: Preparation

    def __call__(self, remarks: Remarks | None = None) -> Pixels:
        """Read and decode the file; changes and guesses are added to `remarks`.

        Raises:
            HistoError: it cannot be read, or is not an image.
        """
        return decode_patch(read_bytes(File(self.name, self.read)), self.name, self.how, remarks)


@dataclass(slots=True)
class ImageArray:
    """Returns an image (H,W,3) as a patch, as `ImageFile` does."""

    name: str
    image: Values
    how: Preparation

    def __call__(self, remarks: Remarks | None = None) -> Pixels:
        """Convert and fit the image.

        Raises:
            HistoError: its values do not fit the range of the other images.
        """
        try:
            pixels, remark = to_uint8(self.image, self.how.ranges)
        except ImageError as error:
            raise HistoError(f"{self.name}: {error}", error.hint) from error
        if remark and remarks is not None:
            remarks.add(remark, self.name)
        return prepare(np.ascontiguousarray(pixels), self.how, self.name, remarks)


@dataclass(slots=True)
class PackedPatch:
    """Returns a patch (96,96,3) of a packed array (N,96,96,3)."""

    store: Pixels
    row: int

    def __call__(self) -> Pixels:
        """Read the row."""
        patch: Pixels = self.store[self.row]
        return patch


def infer_file_ranges(files: Sequence[File]) -> Ranges:
    """Infer which value is white in the images of a set that are not uint8, from up to `SAMPLE_SIZE` of the set."""
    return infer_ranges(map(_read_values, pick_sample(files)))


def _read_values(file: File) -> Values | None:
    """Return the values of an image; None if its header says that they are uint8, or if it cannot be read.

    Only the first bytes are read if they suffice: images can be large, and a network is slow.
    """
    try:
        if hasattr(file.read, "read_head") and is_8_bit(read_bytes(file, _HEAD_BYTES)):
            return None
        data = read_bytes(file)
    except HistoError:
        return None
    return None if is_8_bit(data) else read_values(data)
