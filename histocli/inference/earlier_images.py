"""Compare patches with the images that have the same ids in the folder of an earlier call."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from histocli.enums import IdKind
from histocli.errors import HistoError
from histocli.files.file import File, find_images, read_bytes
from histocli.files.listing import list_files
from histocli.images.image_files import ImageFile
from histocli.patch import Patch
from histocli.sources.folder import make_id

_MAX_COMPARED = 100  # images


def find_other(patches: Sequence[Patch], folder: str, kind: IdKind) -> Patch | None:
    """Return the first patch whose id is that of an image with other bytes in a folder or archive; None if none is.

    So links, copies, and an archive and its unpacked folder have the same images. An image that is no longer in the
    folder was probably moved. At most 100 images are compared: those of other patients differ from the first one on.
    """
    by_id = {patch.id: patch for patch in patches}
    if not by_id:
        return None
    try:
        files = find_images(list_files(Path(folder))).images
    except HistoError:
        return None  # there is no such folder any more
    pairs = ((by_id[key], file) for file in files if (key := make_id(file, kind)) in by_id)
    return next((patch for patch, file in islice(pairs, _MAX_COMPARED) if _has_other_bytes(patch, file)), None)


def _has_other_bytes(patch: Patch, file: File) -> bool:
    """Return whether the file of a patch has other bytes than `file`; False if one of them cannot be read."""
    if not isinstance(patch.load, ImageFile):
        return False
    try:
        return read_bytes(file) != read_bytes(File(patch.load.name, patch.load.read))
    except HistoError:
        return False
