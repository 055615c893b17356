"""Compare patches with the images that have the same ids in the folders of earlier calls."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path

from histocli.enums import IdKind
from histocli.errors import HistoError
from histocli.files.file import DiskReader, File, find_images, read_bytes, to_utf8
from histocli.files.listing import list_files
from histocli.images.image_files import ImageArray, ImageFile
from histocli.inference.path_list import read_path_list
from histocli.patch import Patch
from histocli.sources.folder import make_id

_MAX_COMPARED = 100  # images


def list_folders(files: Mapping[str, Sequence[File]], lines: Iterable[bytes] | None) -> list[str]:
    """Return the folders that image files lie in, and the archives among the inputs, sorted.

    `files` are the image files by input, and `lines` are the paths from stdin.
    """
    listed = chain(chain.from_iterable(files.values()), (file for _, file in read_path_list(lines or ())))
    folders = {_find_folder(file.read) for file in listed} - {""}
    archives = {name for name, images in files.items() if images and not _find_folder(images[0].read)}
    return sorted({to_utf8(os.path.realpath(path)) for path in folders | archives})


def find_other(
    patches: Sequence[Patch], folders: Iterable[str], kind: IdKind, *, has_subfolders: bool
) -> tuple[Patch, str] | None:
    """Return the first patch whose id is that of an image with other bytes in a folder, and this folder; else None.

    Some of the `folders` may be archives. Without `has_subfolders`, the subfolders are not searched. Links, copies, and
    an archive and its unpacked folder have the same images. An image that is no longer in its folder was probably
    moved. At most 100 images are compared: those of other patients differ from the first one on.
    """
    by_id = {patch.id: patch for patch in patches}
    resolve = cache(os.path.realpath)
    compared = 0
    for folder in folders if by_id else ():
        listed = (file for file in _list_files(folder, has_subfolders) if make_id(file, kind) in by_id)
        for file in find_images(listed).images:
            patch = by_id[make_id(file, kind)]
            own, other = _find_folder(getattr(patch.load, "read", None)), _find_folder(file.read)
            if own and other and resolve(own) == resolve(other):
                continue  # the file of the patch itself, or the same image in another format
            if _is_other(patch, file):
                return patch, folder
            compared += 1
            if compared == _MAX_COMPARED:
                return None
    return None


def _list_files(folder: str, has_subfolders: bool) -> list[File]:
    """List the files in a folder or archive; none if it does not exist any more."""
    try:
        if has_subfolders or not Path(folder).is_dir():
            return list_files(Path(folder))
        return [File(to_utf8(name), DiskReader(folder, name)) for name in sorted(os.listdir(folder))]  # noqa: PTH208
    except (HistoError, OSError):
        return []


def _find_folder(reader: object) -> str:
    """Return the folder of the file that a reader reads; "" if it is not a file on disk."""
    return os.path.dirname(reader.path) if isinstance(reader, DiskReader) else ""  # noqa: PTH120 - may be 100,000s


def _is_other(patch: Patch, file: File) -> bool:
    """Return whether a patch is another image than `file`: has other bytes. False if one of them cannot be read."""
    if not isinstance(patch.load, ImageFile):
        return isinstance(patch.load, ImageArray)  # a row of an array; a packed patch may be made from `file`
    try:
        return read_bytes(file) != read_bytes(File(patch.load.name, patch.load.read))
    except HistoError:
        return False
