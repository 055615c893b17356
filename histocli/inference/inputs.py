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
from histocli.files.file import DiskReader, File, describe_others, find_images, is_array, make_file, to_utf8
from histocli.files.formats import explain_no_images
from histocli.files.listing import list_files, walk_folder
from histocli.images.decode import Preparation
from histocli.images.image_files import ImageFile, infer_file_ranges
from histocli.images.intensity import list_white
from histocli.inference.array_inputs import open_array, read_array_patches
from histocli.inference.dataset_inputs import open_dataset_patches
from histocli.inference.input_notes import describe_shadowed, suggest_input
from histocli.inference.path_list import read_path_list, read_stdin_lines
from histocli.inference.patterns import Match
from histocli.inference.places import Place, PlaceKind, find_listed_places, find_places, make_place
from histocli.patch import Patch
from histocli.sources.folder import choose_id_kind, make_id
from histocli.unchanged import find_state
from histocli.workspace import Workspace

STDIN = "-"


class Inputs(NamedTuple):
    """Patches to be scored, and their number where that is known.

    `state` changes if a list of paths, the names of the files in a folder, or the content of another input changes; the
    images of a folder are compared by `Parts`, so that one changed image changes only one part. `notes` are lines for
    the user: the numbers of files that are not images, and the splits that are scored. `id_kind` is the kind of the ids
    of image files, None if there are several kinds or no image files. `places` are the folders, archives and arrays
    with the images, except for data sets, and for a list that is read while it is scored. `other_files` are not
    images. `white` is the value of a white pixel, for each type of image that is not uint8. If there are
    several inputs, and one is not an image, a folder or an archive, each key begins with the input's name.
    """

    total: int | None
    patches: Iterable[Patch]
    state: str
    notes: tuple[str, ...] = ()
    id_kind: IdKind | None = None
    places: tuple[Place, ...] = ()
    other_files: Sequence[File] = ()
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
    if not split and all(map(_has_image_files, names)):
        found = _open_image_files(names, preparation, ids, may_be_empty)
    else:
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise UsageError(f"the input {twice[0]} is given twice", "give it once")
        inputs = [_open_input(name, workspace, preparation, lines, split, ids, may_be_empty) for name in names]
        found = inputs[0] if len(names) == 1 else _join_inputs(names, inputs)
    return found if split else found._replace(notes=describe_shadowed(names, workspace) + found.notes)


def _join_inputs(names: Sequence[str], inputs: Sequence[Inputs]) -> Inputs:
    """Return the patches of several inputs; their ids begin with the input's name, unless they are paths from stdin."""
    parts = [part if name == STDIN else _prefix_ids(part, name) for name, part in zip(names, inputs, strict=True)]
    totals = [part.total for part in parts if part.total is not None]
    kinds = {part.id_kind for part in parts if part.id_kind}
    return Inputs(
        total=sum(totals) if len(totals) == len(parts) else None,
        patches=chain.from_iterable(part.patches for part in parts),
        state="\n".join(part.state for part in parts),
        notes=tuple(note for part in parts for note in part.notes),
        id_kind=kinds.pop() if len(kinds) == 1 else None,
        places=tuple(place for part in parts for place in part.places),
        other_files=[file for part in parts for file in part.other_files],
        white={kind: top for part in parts for kind, top in part.white.items()},
    )


def _prefix_ids(inputs: Inputs, name: str) -> Inputs:
    """Add the input's name at the beginning of its patches' ids."""
    stem = to_utf8(Path(name).as_posix())
    white = {f"{stem}/{kind}": top for kind, top in inputs.white.items()}
    places = tuple(replace(place, prefix=f"{stem}/") for place in inputs.places)
    patches = (patch._replace(id=f"{stem}/{patch.id}") for patch in inputs.patches)
    return inputs._replace(patches=patches, places=places, white=white)


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
    # `Path.exists` raises an error if a name is too long.
    is_missing = not (name == STDIN or os.path.exists(path) or _is_missing_image(name))  # noqa: PTH110
    if (split or is_missing) and name in workspace.list_datasets():
        total, patches, notes = open_dataset_patches(workspace, name, split, preparation)
        return Inputs(total, patches, hash_file(workspace.manifest_path(name)), notes)
    if is_missing:
        workspace.check_complete(name)
        hint = suggest_input(name, workspace.list_datasets(), workspace)
        raise HistoError(f"there is no file, folder or data set {name!r}", hint)
    if split:
        raise UsageError(
            f"--split {split} is for packed data sets, and {name} is a path",
            "give the folder of the split, or pack the images first: histo download",
        )
    if name == STDIN:
        count, source = (None, read_stdin_lines()) if lines is None else (len(lines), lines)
        kind = ids or IdKind.PATH
        places = find_listed_places(lines, kind) if lines else ()
        state = sha256(b"".join(lines or [])).hexdigest()
        listed = _read_paths(source, preparation, kind)
        return Inputs(count, listed, state, id_kind=kind if count != 0 else None, places=places)
    if os.path.isfile(path) and is_array(name):  # noqa: PTH113 - as above
        array = open_array(path)
        ranges, rows = read_array_patches(array, path, preparation)
        places = (make_place(path, PlaceKind.ARRAY, array.shape[0]),)
        return Inputs(array.shape[0], rows, str(find_state(path)), places=places, white=list_white(ranges))
    return _open_place(name, preparation, ids, may_be_empty)


def _has_image_files(name: str) -> bool:
    """Return whether an input is a folder, an archive or a file, and not an array."""
    is_file = os.path.isfile(name)  # noqa: PTH113 - as in `_open_input`
    return _is_folder(Path(name)) or (is_file and not is_array(name)) or _is_missing_image(name)


def _is_folder(path: Path) -> bool:
    """Return whether an input is a folder or an archive."""
    return os.path.isdir(path) or (os.path.isfile(path) and is_archive(path.name))  # noqa: PTH112, PTH113 - the same


def _is_missing_image(name: str) -> bool:
    """Return whether an input counts as an image that cannot be read: a dead link, or a removed match of a pattern."""
    return (isinstance(name, Match) or os.path.islink(name)) and not os.path.exists(name)  # noqa: PTH110, PTH114


def _open_image_files(names: Sequence[str], preparation: Preparation, ids: IdKind | None, may_be_empty: bool) -> Inputs:
    """Open folders, archives and files; if there is more than a folder or an archive, ids contain the input's path."""
    if len(names) == 1 and _is_folder(Path(names[0])):
        return _open_place(names[0], preparation, ids, may_be_empty)
    others: list[File] = []
    files = {name: _list_prefixed_files(name, others, may_be_empty) for name in names}
    listed = [file for name in names for file in files[name]]
    unique = list({file.name: file for file in listed}.values())
    found = _make_file_inputs(unique, "", preparation, ids, files, others)
    if repeated := len(listed) - len(unique):  # for example `g/a` and `g/a/1.png`, which match `g/**`
        note = f"{repeated:,} images are in several inputs; each image is scored once"
        found = found._replace(notes=(*found.notes, note))
    return found._replace(places=find_places(files, found.id_kind) if found.id_kind else ())


def _open_place(name: str, preparation: Preparation, ids: IdKind | None, may_be_empty: bool) -> Inputs:
    """Open a folder or an archive, in which the ids begin, or a single file."""
    path, others = Path(name), list[File]()
    folder, kind = (path, PlaceKind.FOLDER) if _is_folder(path) else (path.parent, PlaceKind.FILES)
    files = _list_images(path, others, may_be_empty)
    prefix = "" if str(folder) == "." else f"{folder.as_posix()}/"
    found = _make_file_inputs(files, prefix, preparation, ids, {name: files}, others)
    return found._replace(places=(make_place(folder, kind),) if files else ())


def _list_prefixed_files(name: str, others: list[File], may_be_empty: bool) -> list[File]:
    """List the images of an input with the input in their names, so that names are unique among several inputs."""
    path = Path(name)
    images = _list_images(path, others, may_be_empty)
    if not _is_folder(path):
        return [make_file(path)]
    prefix = to_utf8(f"{path.as_posix()}/")
    return [File(prefix + file.name, file.read) for file in images]


def _list_images(path: Path, others: list[File], may_be_empty: bool) -> list[File]:
    """List the images of a folder or archive, and add its other files to `others`; a single file counts as an image.

    Raises:
        HistoError: there are no images, unless the input is a folder and it `may_be_empty`; or a single file is not a
            regular file, or its format is not read.
    """
    if not _is_folder(path):
        if os.path.exists(path):  # noqa: PTH110 - else it is a missing image
            list_files(path)  # for its errors
        return [make_file(path, path.name)]
    found = find_images(list_files(path))
    others += found.others
    if not found.images and not (may_be_empty and path.is_dir()):
        raise HistoError(f"there are no images in {path}", explain_no_images(others))
    return found.images


def _make_file_inputs(
    files: list[File],
    folder: str,
    preparation: Preparation,
    ids: IdKind | None,
    by_input: Mapping[str, list[File]],
    others: list[File],
) -> Inputs:
    """Return the images `files`; their paths are the name of the folder and their names.

    `by_input` are the images of each input, and `others` are the files in the inputs that are not images.
    """
    ranges = infer_file_ranges(files)
    preparation = replace(preparation, ranges=ranges)
    kind = ids or choose_id_kind(files)
    owners: dict[str, str] = {}
    keys = [_make_new_id(file, kind, owners) for file in files]
    patches = (
        Patch(key, ImageFile(file.name, file.read, preparation), path=folder + file.name)
        for key, file in zip(keys, files, strict=True)
    )
    notes = [f"there are no images in {name}" for name, images in by_input.items() if not images]
    if skipped := describe_others(others):
        notes.append(skipped)
    state = "\n".join(_find_input_state(Path(name), images) for name, images in by_input.items())
    id_kind = kind if files else None
    return Inputs(len(files), patches, state, tuple(notes), id_kind, other_files=others, white=list_white(ranges))


def _find_input_state(path: Path, images: list[File]) -> str:
    """Return the size and time of a file; of a folder, a SHA-256 of the names of its images, and its archives' states.

    It is "" for a missing file.
    """
    if not os.path.isdir(path):  # noqa: PTH112 - as in `_open_input`
        return str(find_state(path)) if os.path.isfile(path) else ""  # noqa: PTH113 - the same
    are_packed = any(not isinstance(file.read, DiskReader) for file in images)
    archives = sorted(filter(is_archive, walk_folder(str(path)))) if are_packed else []
    names = sha256("\n".join(file.name for file in images).encode()).hexdigest()
    return "\n".join([names, *(str(find_state(path / archive)) for archive in archives)])


def _make_new_id(file: File, kind: IdKind, owners: dict[str, str]) -> str:
    """Return the id of a file. If the kind is not `path`, check that no earlier file has this id.

    `owners` has the name of the file of each id so far; the file is added.

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
