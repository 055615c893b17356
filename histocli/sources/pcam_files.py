"""The nine files of PatchCamelyon: their names, published MD5s, and where they are in a folder."""

from pathlib import Path
from typing import NamedTuple

from histocli.errors import HistoError

ZENODO = "https://zenodo.org/records/2546921/files?download=1"
SPLITS = ("train", "valid", "test")
MD5 = {
    "camelyonpatch_level_2_split_train_x.h5.gz": "1571f514728f59376b705fc836ff4b63",
    "camelyonpatch_level_2_split_train_y.h5.gz": "35c2d7259d906cfc8143347bb8e05be7",
    "camelyonpatch_level_2_split_train_meta.csv": "5a3dd671e465cfd74b5b822125e65b0a",
    "camelyonpatch_level_2_split_valid_x.h5.gz": "d5b63470df7cfa627aeec8b9dc0c066e",
    "camelyonpatch_level_2_split_valid_y.h5.gz": "2b85f58b927af9964a4c15b8f7e8f179",
    "camelyonpatch_level_2_split_valid_meta.csv": "67589e00a4a37ec317f2d1932c7502ca",
    "camelyonpatch_level_2_split_test_x.h5.gz": "d8c2d60d490dbd479f8199bdfa0cf6ec",
    "camelyonpatch_level_2_split_test_y.h5.gz": "60a7035772fbdb7f34eb86d4420cf66a",
    "camelyonpatch_level_2_split_test_meta.csv": "3455fd69135b66734e1008f3af684566",
}


class SplitFiles(NamedTuple):
    """The files of one split; `meta` is None if there is none."""

    x: Path
    y: Path
    meta: Path | None


def parse_location(location: str | Path | None) -> tuple[str, Path | None]:
    """Return the base address of the files and None, or "" and their folder; None means Zenodo.

    Raises:
        HistoError: the folder does not exist.
    """
    if location is None:
        return ZENODO, None
    if str(location).startswith(("http://", "https://")):
        return str(location), None
    folder = Path(location)
    if not folder.is_dir():
        raise HistoError(f"there is no folder {folder}", "give a folder or a base address with PCam's files")
    return "", folder


def make_file_name(split: str, kind: str) -> str:
    """Return the published name of a file: `kind` is `x`, `y` or `meta`."""
    return f"camelyonpatch_level_2_split_{split}_{kind}.{'csv' if kind == 'meta' else 'h5.gz'}"


def find_split_files(folder: Path, split: str) -> tuple[Path | None, Path | None, Path | None]:
    """Return the files x, y and meta of a split, compressed or not; None for each that is missing."""
    names = [
        [make_file_name(split, kind), make_file_name(split, kind).removesuffix(".gz")] for kind in ("x", "y", "meta")
    ]
    x, y, meta = (next((folder / name for name in pair if (folder / name).is_file()), None) for pair in names)
    return x, y, meta


def has_split(folder: Path, split: str) -> bool:
    """Return whether a folder has an array of a split."""
    x, y, _ = find_split_files(folder, split)
    return x is not None or y is not None
