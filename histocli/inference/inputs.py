"""Open the patches to score: folders, files, archives, arrays, packed data sets, or a list of paths on stdin."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from histocli.data.manifest import hash_file
from histocli.enums import IdKind, Resize, SplitName
from histocli.errors import HistoError, UsageError
from histocli.files.archives import is_archive
from histocli.files.file import DiskReader, File, find_images, make_file, to_utf8
from histocli.files.formats import explain_no_images
from histocli.files.listing import list_files, walk_folder
from histocli.images.decode import Preparation
from histocli.images.image_files import ImageFile, infer_file_ranges
from histocli.images.intensity import list_white
from histocli.inference.array_inputs import is_array, open_array, read_array_patches
from histocli.inference.dataset_inputs import open_dataset_patches
from histocli.inference.input_notes import describe_empty, describe_shadowed, describe_skipped, suggest_input
from histocli.inference.path_list import read_path_list, read_stdin_lines
from histocli.inference.patterns import Match
from histocli.inference.places import Place, PlaceKind, find_listed_places, find_places, make_place
from histocli.patch import Patch
from histocli.sources.folder import choose_id_kind, make_id
from histocli.unchanged import find_state
from histocli.workspace import Workspace, is_path

STDIN = "-"


class Inputs(NamedTuple):
    """Patches to be scored, and their number where that is known.

    `files` are, by input, its image files, and `skipped` are all other files. `notes` are lines for the user: the
    numbers of other files, and the splits that are scored. `id_kind` is the kind of the ids of image files, None if
    there are several kinds or no image files. `places` are the folders, archives and arrays with the images, except for
    data sets, and for a list that is read while it is scored. `white` is the value of a white pixel, for each type of
    image that is not uint8. If there are several inputs, and one is not an image, a folder or an archive, each key
    begins with the input's name.
    """

    total: int | None
    patches: Iterable[Patch]
    files: dict[str, list[File]]
    notes: tuple[str, ...] = ()
    id_kind: IdKind | None = None
    places: tuple[Place, ...] = ()
    skipped: Sequence[File] = ()
    white: Mapping[str, float] = MappingProxyType({})


def open_inputs(
    names: Sequence[str],
    workspace: Workspace,
    resize: Resize,
    lines: list[bytes] | None = None,
    split: SplitName | None = None,
    mpp: float | None = None,
    ids: IdKind | None = None,
    *,
    may_be_empty: bool = False,
) -> Inputs:
    """Open paths, data set names, or `-` for a list of paths on stdin.

    The same inputs give the same ids in the same order.

    A path is preferred to a data set of the same name, unless `split` is given, which only data sets have. The kind of
    the ids of image files is `ids`, by default the first one that gives all files different ids. A path begins in the
    folder or archive if that is the only input, else with the input's path. The id in an array is the row number. If
    there are several inputs and one is an array or a data set, every id begins with its input's name.
    `lines` are the lines of stdin for `-`, if they have been read already. With `split`, only this split of data sets
    is opened. `mpp` are the micrometres per pixel of the images, if they differ from those of the training patches.
    With `may_be_empty`, a folder without images is no error, but a note.

    Raises:
        HistoError: an input is neither a path nor a data set, or contains no image; a data set has no such split; or
            two images would have the same id.
        UsageError: `split` is given for an input that is a path, or an array or data set is given twice.
    """
    preparation = Preparation(resize, mpp)
    shadowed = () if split else describe_shadowed(names, workspace)
    has_image_files = not split and all(_has_image_files(name) for name in names)
    if has_image_files and (len(names) > 1 or not all(_is_folder(Path(name)) for name in names)):
        others: list[File] = []
        files = {name: _list_prefixed_files(name, others, may_be_empty) for name in names}
        listed = [file for name in names for file in files[name]]
        unique = list({file.name: file for file in listed}.values())
        notes = shadowed + describe_empty(files) + describe_skipped(others)
        if repeated := len(listed) - len(unique):  # for example `g/a` and `g/a/1.png`, which match `g/**`
            notes += (f"{repeated:,} images are in several inputs; each image is scored once",)
        found = _make_file_inputs(unique, "", preparation, ids, files)
        places = find_places(files, found.id_kind) if found.id_kind else ()
        return found._replace(notes=notes, places=places, skipped=others)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"the input {twice[0]} is given twice", "give it once")
    inputs = [_open_input(name, workspace, preparation, lines, split, ids, may_be_empty) for name in names]
    if len(names) == 1:
        return inputs[0]._replace(notes=shadowed + inputs[0].notes)
    inputs = [_prefix_ids(part, name) for part, name in zip(inputs, names, strict=True)]
    totals = [part.total for part in inputs]
    total = None if None in totals else sum(n for n in totals if n is not None)
    files = {name: files for part in inputs for name, files in part.files.items()}
    notes = shadowed + tuple(note for part in inputs for note in part.notes)
    kinds = {part.id_kind for part in inputs if part.id_kind}
    id_kind = kinds.pop() if len(kinds) == 1 else None
    white = {kind: top for part in inputs for kind, top in part.white.items()}
    skipped = [file for part in inputs for file in part.skipped]
    patches = chain.from_iterable(part.patches for part in inputs)
    places = tuple(place for part in inputs for place in part.places)
    return Inputs(total, patches, files, notes, id_kind, places, skipped, white)


def _prefix_ids(inputs: Inputs, name: str) -> Inputs:
    """Add the input's name at the beginning of its patches' ids; paths from stdin are unique already."""
    if name == STDIN:
        return inputs
    stem = to_utf8(Path(name).as_posix())
    white = {f"{stem}/{kind}": top for kind, top in inputs.white.items()}
    places = tuple(replace(place, prefix=f"{stem}/") for place in inputs.places)
    patches = (patch._replace(id=f"{stem}/{patch.id}") for patch in inputs.patches)
    return inputs._replace(patches=patches, places=places, white=white)


def hash_inputs(
    inputs: Inputs,
    names: Sequence[str],
    workspace: Workspace,
    lines: list[bytes] | None,
    split: SplitName | None,
) -> str:
    """Return a SHA-256 of a folder's file names, a data set's manifest, and the size and time of a file or archive.

    `Parts` compares the sizes and times of the images in folders: one changed image changes only one part.
    `inputs` are what `open_inputs` returned for the same `names`, `lines` and `split`.
    """
    digest = sha256()
    for name in names:
        path = Path(name)
        digest.update(f"{path.absolute()}\n".encode("utf-8", "surrogateescape"))
        if name == STDIN:
            digest.update(b"".join(lines or []))
        elif split:  # only data sets have splits: a path of the same name was not opened
            digest.update(hash_file(workspace.manifest_path(name)).encode())
        elif path.is_dir():
            digest.update("\n".join(file.name for file in inputs.files[name]).encode())
            if any(not isinstance(file.read, DiskReader) for file in inputs.files[name]):
                states = [find_state(path / inner) for inner in sorted(walk_folder(name)) if is_archive(inner)]
                digest.update(f"{states}\n".encode())
        elif path.is_file():
            digest.update(f"{find_state(path)}\n".encode())
        elif not _is_missing_image(name):
            digest.update(hash_file(workspace.manifest_path(name)).encode())
    return digest.hexdigest()


def _open_input(
    name: str,
    workspace: Workspace,
    preparation: Preparation,
    lines: list[bytes] | None,
    split: SplitName | None,
    ids: IdKind | None,
    may_be_empty: bool,
) -> Inputs:
    """Open a single input."""
    path = Path(name)
    if split and not is_path(name) and name in workspace.list_datasets():  # even if there is a path of this name
        return _open_dataset(workspace, name, split, preparation)
    if split and (name == STDIN or os.path.exists(path)):  # noqa: PTH110 - as below
        raise UsageError(
            f"--split {split} is for packed data sets, and {name} is a path",
            "give the folder of the split, or pack the images first: histo download",
        )
    if name == STDIN:
        total, source = (None, read_stdin_lines()) if lines is None else (len(lines), lines)
        kind = ids or IdKind.PATH
        places = find_listed_places(lines, kind) if lines else ()
        return Inputs(total, _read_paths(source, preparation, kind), {}, (), kind if total != 0 else None, places)
    if not os.path.exists(path) and not _is_missing_image(name):  # noqa: PTH110 - Path.exists raises where a name is too long
        if name in (datasets := workspace.list_datasets()):
            return _open_dataset(workspace, name, split, preparation)
        workspace.check_complete(name)
        raise HistoError(f"there is no file, folder or data set {name!r}", suggest_input(name, datasets, workspace))
    if path.is_file() and is_array(path):
        array = open_array(path)
        ranges, patches = read_array_patches(array, path, preparation)
        places = (make_place(path, PlaceKind.ARRAY, array.shape[0]),)
        return Inputs(array.shape[0], patches, {}, places=places, white=list_white(ranges))
    others: list[File] = []
    is_folder = _is_folder(path)
    files = _list_input_images(path, others, may_be_empty) if is_folder else [_open_file(path, path.name)]
    folder = path if is_folder else path.parent
    prefix = "" if str(folder) == "." else f"{folder.as_posix()}/"
    notes = describe_empty({name: files}) + describe_skipped(others)
    found = _make_file_inputs(files, prefix, preparation, ids, {name: files})
    place = make_place(folder, PlaceKind.FOLDER if is_folder else PlaceKind.FILES)
    return found._replace(notes=notes, places=(place,) if files else (), skipped=others)


def _has_image_files(name: str) -> bool:
    """Return whether an input is a folder, an archive or a file, and not an array."""
    is_file = os.path.isfile(name)  # noqa: PTH113 - as in `_open_input`
    return _is_folder(Path(name)) or (is_file and not is_array(Path(name))) or _is_missing_image(name)


def _is_folder(path: Path) -> bool:
    """Return whether an input is a folder or an archive."""
    return os.path.isdir(path) or (os.path.isfile(path) and is_archive(path.name))  # noqa: PTH112, PTH113 - the same


def _is_missing_image(name: str) -> bool:
    """Return whether an input counts as an image that cannot be read: a dead link, or a removed match of a pattern."""
    return (isinstance(name, Match) or os.path.islink(name)) and not os.path.exists(name)  # noqa: PTH110, PTH114


def _list_input_images(path: Path, others: list[File], may_be_empty: bool) -> list[File]:
    """List the images of a folder or archive, and add its other files to `others`.

    Raises:
        HistoError: there are none, unless the input is a folder and it `may_be_empty`.
    """
    found = find_images(list_files(path))
    others += found.others
    if not found.images and not (may_be_empty and path.is_dir()):
        raise HistoError(f"there are no images in {path}", explain_no_images(others))
    return found.images


def _open_file(path: Path, name: str | None = None) -> File:
    """Return a single file, which is treated as an image, under its path or another name.

    Raises:
        HistoError: it is not a regular file, or its format is not read.
    """
    if os.path.exists(path):  # noqa: PTH110 - else it is a missing image
        list_files(path)  # for its errors
    return make_file(path, name)


def _list_prefixed_files(name: str, others: list[File], may_be_empty: bool) -> list[File]:
    """List the files of an input with the input in their names, so that names are unique among several inputs."""
    path = Path(name)
    if not _is_folder(path):
        return [_open_file(path)]
    prefix = to_utf8(f"{path.as_posix()}/")
    return [File(prefix + file.name, file.read) for file in _list_input_images(path, others, may_be_empty)]


def _make_file_inputs(
    files: list[File], folder: str, preparation: Preparation, ids: IdKind | None, by_input: dict[str, list[File]]
) -> Inputs:
    """Return the images in a folder; their paths are the folder's name and the files' names."""
    ranges = infer_file_ranges(files)
    preparation = replace(preparation, ranges=ranges)
    kind = ids or choose_id_kind(files)
    owners: dict[str, str] = {}
    keys = [_make_new_id(file, kind, owners) for file in files]
    patches = (
        Patch(key, ImageFile(file.name, file.read, preparation), path=folder + file.name)
        for key, file in zip(keys, files, strict=True)
    )
    return Inputs(len(files), patches, by_input, id_kind=kind if files else None, white=list_white(ranges))


def _make_new_id(file: File, kind: IdKind, owners: dict[str, str]) -> str:
    """Return the id of a file, and add it to `owners`, the names of the files by id, unless ids are names.

    Raises:
        HistoError: another file has the same id.
    """
    key = make_id(file, kind)
    if kind is IdKind.PATH:
        return key
    if (other := owners.setdefault(key, file.name)) != file.name:
        raise HistoError(
            f"{other} and {file.name} would have the same id {key!r}, which is of the kind {kind}",
            "use --id path, and with --skip-done a new file for --out, because the ids of a file are of one kind",
        )
    return key


def _read_paths(lines: Iterable[bytes], preparation: Preparation, kind: IdKind) -> Iterator[Patch]:
    """Yield the image at the path in each line."""
    owners: dict[str, str] = {}
    for path, file in read_path_list(lines):
        key = _make_new_id(file, kind, owners)
        yield Patch(key, ImageFile(file.name, file.read, preparation), path=path)


def _open_dataset(workspace: Workspace, name: str, split: SplitName | None, preparation: Preparation) -> Inputs:
    """Return the patches of a packed data set, or of one of its splits."""
    total, patches, notes = open_dataset_patches(workspace, name, split, preparation)
    return Inputs(total, patches, {}, notes)
