"""List the files in folders and archives."""

import os
from collections.abc import Iterator
from pathlib import Path

from histocli.errors import HistoError
from histocli.files.archives import is_archive, list_archive, open_inner_archives
from histocli.files.file import SYSTEM_FOLDERS, DiskReader, File, make_file, to_utf8
from histocli.files.formats import refuse_format
from histocli.files.streams import ArchiveOpener
from histocli.workspace import Workspace


def list_files(path: Path) -> list[File]:
    """List the files in a folder and its subfolders, the members of an archive, or a single file, sorted by name.

    No image is read or unpacked. Hidden files, folders of the system, devices and pipes are skipped, and so is a
    workspace inside the folder, which has plots and tables. Members of an archive that are not read, such as those with
    a path outside it, are listed under a name that says why. Archives in a folder or archive are opened if there are no
    images in the same place. The members of a compressed tar have its own order, because they can only be read one
    after the other.

    Raises:
        HistoError: the path does not exist, may not be read, or is not a file or folder; or the archive is damaged,
            contains a name twice, or has a format that is not read.
    """
    try:
        if path.is_dir():
            folder = str(path)
            files = [File(to_utf8(name), DiskReader(folder, name)) for name in sorted(walk_folder(folder))]
            return open_inner_archives(files, lambda file: ArchiveOpener(Path(file.read.path)))  # type: ignore[attr-defined]
        if path.is_file():
            if is_archive(path.name):
                return list_archive(to_utf8(str(path)), ArchiveOpener(path))
            refuse_format(path)
            return [make_file(path, path.name)]
        wrong = f"{path} is not a file or folder" if path.exists() else f"there is no file or folder {path}"
    except OSError as error:
        raise HistoError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    raise HistoError(wrong, "give a folder, an archive or an image file")


def walk_folder(folder: str) -> Iterator[str]:
    """Yield the relative POSIX paths of all regular files in `folder`, and of links that lead nowhere.

    A link to a folder is followed, unless this folder is listed already: a link may lead back to a folder above it.
    A million files are listed in a few seconds, because only folders and links need another system call. A folder that
    another program removes meanwhile counts as empty.

    Raises:
        OSError: a folder cannot be read, or `folder` does not exist.
    """
    folders, links = [(folder, "")], list[tuple[str, str]]()
    listed: set[tuple[int, int]] = set()
    while folders or links:
        parent, prefix = folders.pop() if folders else links.pop(0)
        try:
            facts = os.stat(parent)  # noqa: PTH116 - as everywhere in this function, without a `Path` for each entry
            if (facts.st_dev, facts.st_ino) in listed or (prefix and _is_workspace(parent)):
                continue
            opened = os.scandir(parent)
        except FileNotFoundError:
            if prefix:
                continue
            raise
        listed.add((facts.st_dev, facts.st_ino))
        with opened as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
                    continue
                if entry.is_file(follow_symlinks=False):
                    yield prefix + entry.name
                elif entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, f"{prefix}{entry.name}/"))
                elif Path(entry.path).is_file():
                    yield prefix + entry.name
                elif Path(entry.path).is_dir():  # a link to a folder
                    links.append((entry.path, f"{prefix}{entry.name}/"))
                elif entry.is_symlink() and not Path(entry.path).exists():  # reading it reports that it leads nowhere
                    yield prefix + entry.name


def _is_workspace(folder: str) -> bool:
    """Return whether a folder is a workspace of `histo` with a data set."""
    workspace = Workspace(Path(folder))
    return workspace.manifests_dir.is_dir() and bool(workspace.list_datasets())
