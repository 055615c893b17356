"""Compare patches with the images that earlier calls gave the same ids."""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence

from histocli.enums import IdKind
from histocli.errors import HistoError
from histocli.files.file import DiskReader, File, is_image, read_bytes, split_suffix, to_utf8
from histocli.images.image_files import ImageArray, ImageFile
from histocli.inference.places import Place, PlaceKind
from histocli.patch import Patch
from histocli.sources.folder import make_id

_MAX_COMPARED = 100  # images whose bytes are compared


def find_id_of_other_image(patches: Sequence[Patch], places: Iterable[Place], kind: IdKind) -> tuple[Patch, str] | None:
    """Return the first patch whose id is that of another image in a place, and the path of this image; else None.

    Only files with the same suffix are compared, because `a.jpg` beside `a.png` may be a preview that was not scored.
    Links, copies, and an archive and its unpacked folder have the same images. An image that is no longer in its place
    was probably moved. The sizes of all files on disk are compared, and the bytes of at most 100 images.
    """
    by_id = {patch.id: patch for patch in patches}
    compared = 0
    for place in places if by_id else ():
        for patch, file in _find_pairs(place, by_id, kind):
            is_other = _compare_states(patch, file)
            if is_other is None and compared < _MAX_COMPARED:
                compared += 1
                is_other = _has_other_bytes(patch, file)
            if is_other:
                return patch, to_utf8(_find_path(file.read) or f"{place.path}/{file.name}")
    return None


def _find_pairs(place: Place, by_id: Mapping[str, Patch], kind: IdKind) -> Iterator[tuple[Patch, File]]:
    """Yield the patches with the ids of files in a place, and these files."""
    if place.kind is PlaceKind.ARRAY:
        return
    if place.kind is PlaceKind.FILES and kind is not IdKind.STEM:  # the ids say where the files are
        for patch in by_id.values():
            if patch.id.startswith(place.prefix) and isinstance(patch.load, ImageFile):
                path = _find_relative_path(patch, patch.load, place.prefix, kind)
                # `Path` would take longer, and there may be a million files.
                reader = DiskReader(*os.path.split(os.path.join(place.path, path)))  # noqa: PTH118
                yield patch, File(to_utf8(path), reader)
        return
    for file in place.list_files():
        if (own := by_id.get(place.prefix + make_id(file, kind))) and _may_be_scored(own, file):
            yield own, file


def _find_relative_path(patch: Patch, load: ImageFile, prefix: str, kind: IdKind) -> str:
    """Return the path of the file with the id of a patch, from the folder on in which the id begins.

    It is the end of the path of the patch itself, which may contain bytes that the id has in another form.
    """
    suffix = "" if kind is IdKind.PATH else split_suffix(load.name)[1]
    path = os.path.normpath(patch.id.removeprefix(prefix) + suffix)
    parts = (_find_path(load.read) or path).split("/")
    return "/".join(parts[-len(path.split("/")) :])


def _may_be_scored(patch: Patch, file: File) -> bool:
    """Return whether a file with the id of a patch is an image with the same suffix, ignoring case."""
    if not isinstance(patch.load, ImageFile):
        return is_image(file.name)
    return split_suffix(patch.load.name)[1].lower() == split_suffix(file.name)[1].lower()


def _find_path(reader: object) -> str:
    """Return the path of the file that a reader reads; "" if it is not a file on disk."""
    return reader.path if isinstance(reader, DiskReader) else ""


def _compare_states(patch: Patch, file: File) -> bool | None:
    """Return whether a patch is another image than `file`, if that is known without reading; else None.

    A row of an array is always another image. A packed patch counts as the same image, because it may have been made
    from `file`. If one of the two files is missing, they count as the same image too.
    """
    if not isinstance(patch.load, ImageFile):
        return isinstance(patch.load, ImageArray)
    own, other = _find_path(patch.load.read), _find_path(file.read)
    if not own or not other:
        return None
    try:
        # Most paths are equal, which is faster to find out than the state of the files.
        if os.path.join(os.getcwd(), own) == other:  # noqa: PTH118, PTH109 - may be a million files
            return False
        states = os.stat(own), os.stat(other)  # noqa: PTH116 - the same
    except (OSError, ValueError):
        return False
    if os.path.samestat(*states) or not stat.S_ISREG(states[1].st_mode):
        return False
    return True if states[0].st_size != states[1].st_size else None


def _has_other_bytes(patch: Patch, file: File) -> bool:
    """Return whether the file of a patch has other bytes than `file`; False if one of them cannot be read."""
    assert isinstance(patch.load, ImageFile)
    try:
        return read_bytes(file) != read_bytes(File(patch.load.name, patch.load.read))
    except HistoError:
        return False
