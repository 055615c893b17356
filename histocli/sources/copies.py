"""Recognise by their names images that are not new patches: masks, thumbnails, and copies of other images."""

import re
from collections.abc import Sequence

from histocli.errors import HistoError
from histocli.files.file import split_suffix

_MASK_FOLDER = re.compile(r"masks?|segmentations?|ground[ _-]?truths?|gt", re.IGNORECASE)
_MASK = re.compile(r"(.+)[ _.-](?:masks?|seg|segmentation|gt)\.\w+", re.IGNORECASE)
_THUMBNAIL_FOLDER = re.compile(r"thumbs?|thumbnails?|previews?", re.IGNORECASE)
_THUMBNAIL = re.compile(r"(.+)[ _.-](?:thumbs?|thumbnails?|previews?)\.\w+", re.IGNORECASE)
# Folders that can hold masks, or patches: they are masks if another folder has images of the same names.
_PERHAPS_MASK_FOLDER = re.compile(r"labels?|annotations?|annots?|targets?|segs?|gts?", re.IGNORECASE)
_CHANGE = r"rot(?:ated?|ation)?|[hv]?flip(?:ped)?|mirror(?:ed)?|aug(?:mented|mentation)?"
_COPY = re.compile(
    rf"^(?:{_CHANGE})[ _-]?\d*[ _-]|[ _-](?:{_CHANGE})[ _-]?\d*(?:[ _-]\w{{1,3}})?$"
    r"|(?: - (?:copy|kopie))?(?: \(\d+\))?$",
    re.IGNORECASE,
)
_CHANGED_FOLDER = re.compile(rf"(?:{_CHANGE})[ _-]?\d*(?:[ _-]?(?:images?|data|set))?", re.IGNORECASE)
_ORIGINAL_FOLDER = re.compile(r"orig(?:inals?)?", re.IGNORECASE)


def refuse_masks(names: Sequence[str]) -> None:
    """Check that there are no masks and no thumbnails among the images, as in `masks/1.png` or `1_thumb.png`.

    Raises:
        HistoError: there are.
    """
    for what, folder, file in (("masks", _MASK_FOLDER, _MASK), ("thumbnails", _THUMBNAIL_FOLDER, _THUMBNAIL)):
        in_folders = [name for name in names if any(folder.fullmatch(part) for part in name.split("/")[:-1])]
        stems = {name.rpartition(".")[0] for name in names}
        beside = [name for name in names if (match := file.fullmatch(name)) and match[1] in stems]
        found = beside or (in_folders if len(in_folders) < len(names) else [])
        if not found and what == "masks":
            found = _find_mirrored_masks(names)
        if found:
            raise HistoError(
                f"{len(found):,} of {len(names):,} images are {what} by their names, such as {found[0]}",
                f"give only the folders of the images to --from, or move the {what} away",
            )


def _find_mirrored_masks(names: Sequence[str]) -> list[str]:
    """Return the images in a folder such as `labels` that have the names of images elsewhere: `img/1.png`."""
    below = {name: tail for name in names if (tail := _find_tail(name))}
    if not below:
        return []
    tails = set(below.values())
    others = {
        tail for name in names if name not in below for tail in _list_tails(name.rpartition(".")[0]) if tail in tails
    }
    return [name for name, tail in below.items() if tail in others]


def _find_tail(name: str) -> str:
    """Return what follows a folder such as `labels` in a path, without the suffix; "" if there is no such folder."""
    parts = name.rpartition(".")[0].split("/")
    at = next((i for i, part in enumerate(parts[:-1]) if _PERHAPS_MASK_FOLDER.fullmatch(part)), None)
    return "" if at is None else "/".join(parts[at + 1 :])


def _list_tails(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(1, len(parts))]


def describe_copies(names: Sequence[str]) -> str:
    """Return a line on images that are copies of others by their names; "" if there are none.

    Copies are `1_rot90.png`, `aug_0_1.png`, `1 (1).png`, `1.jpg` and `augmented/1.png` where there is `1.png`.
    """
    originals: dict[str, str] = {}
    marked: dict[str, str] = {}
    for name in names:
        stem = split_suffix(name)[0]
        plain = _COPY.sub("", stem) or stem
        folders = name.split("/")[:-1]
        unchanged = [part for part in folders if not _CHANGED_FOLDER.fullmatch(part)]
        key = "/".join([*(part for part in unchanged if not _ORIGINAL_FOLDER.fullmatch(part)), plain])
        is_marked = plain != stem or len(unchanged) < len(folders)
        if is_marked or originals.setdefault(key, name) != name:
            marked[name] = key
    copies = {name: originals[key] for name, key in marked.items() if key in originals}
    if not copies:
        return ""
    name, original = next(iter(copies.items()))
    return (
        f"{len(copies):,} of {len(names):,} images are copies of others by their names: {name} of {original}. Changed "
        "copies are not found by their pixels: if an image is in train and its copy in val, the metrics are too good. "
        "Remove the copies, or keep them together with --slide-pattern"
    )
