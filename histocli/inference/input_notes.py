"""Notes about the inputs of `histo predict`."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from histocli.files.archives import is_archive, remove_archive_suffix
from histocli.files.file import DiskReader, File
from histocli.similar import find_similar_path
from histocli.text import format_count, join_first
from histocli.workspace import Workspace, is_path

_ARRAY_SUFFIXES = (".npz", ".parquet")  # they may have scores or other numbers, not images
_MAX_LISTED = 3  # how many archives a message names


def describe_shadowed(names: Sequence[str], workspace: Workspace) -> tuple[str, ...]:
    """Return a note for each path that has the name of a data set; a path with a separator cannot be a data set."""
    datasets = workspace.list_datasets()
    return tuple(
        f"{name} means the path {Path(name).absolute()}; the workspace also has a data set of this name: --split all "
        "scores the data set"
        for name in names
        if name in datasets and os.path.exists(name)  # noqa: PTH110 - Path.exists raises where a name is too long
    )


def suggest_input(name: str, known: Iterable[str], workspace: Workspace) -> str:
    """Return the hint for an input that does not exist: the path, or one of the `known` names, that was probably meant.

    It also lists the data sets, if there are any.
    """
    similar = find_similar_path(name, () if is_path(name) else known)
    if not similar:
        return workspace.describe_datasets()
    return f"did you mean {similar}?" + (f" ({workspace.describe_datasets()})" if workspace.list_datasets() else "")


def describe_unopened(names: Sequence[str], skipped: Sequence[File]) -> tuple[str, ...]:
    """Return a note if archives in folders are not opened, because there are images in the same folder.

    `names` are the inputs of the call, and `skipped` are the files in them that are not images. If a folder has
    `a.zip` and a folder `a`, the note does not name `a.zip`: its images are probably in `a` already.
    """
    given = {os.path.realpath(name) for name in names}
    paths = [Path(file.read.folder, file.read.name) for file in skipped if isinstance(file.read, DiskReader)]
    unopened = [
        str(path)
        for path in paths
        if is_archive(path.name)
        and not path.name.lower().endswith(_ARRAY_SUFFIXES)
        and os.path.realpath(path) not in given
        and not os.path.isdir(remove_archive_suffix(str(path)))  # noqa: PTH112 - Path.is_dir raises if it is too long
    ]
    if not unopened:
        return ()
    is_one = len(unopened) == 1
    verb, unpack, give = ("is", "it", "it as an input") if is_one else ("are", "them", "them as inputs")
    return (
        f"{format_count(len(unopened), 'archive')} {verb} not opened, because there are images in the same folder: "
        f"{join_first(unopened, _MAX_LISTED)}; unpack {unpack}, or give {give} too",
    )
