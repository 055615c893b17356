"""Recognise whole slides by their content, without reading their pixels; needs no package."""

import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from histocli.errors import HistoError, UsageError
from histocli.files.file import is_incomplete, to_utf8
from histocli.files.listing import walk_folder

# Suffixes that only slide scanners use: a damaged file with one of these is a damaged slide, not an unknown file.
_SLIDE_SUFFIXES = frozenset([".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide"])
_TIFF_SUFFIXES = frozenset([".tif", ".tiff"])
_PNG = b"\x89PNG\r\n\x1a\n"
_MIN_SLIDE_BYTES = 1 << 15  # bytes: smaller TIFF files are patches of 96x96 pixels, and need not be opened
_MIN_TILED_SIDE = 1024  # pixels: the longest side of a tiled TIFF that is a slide
_MIN_UNTILED_SIDE = 8192  # pixels: any larger TIFF is a slide
_WIDTH, _HEIGHT, _TILE_WIDTH = 256, 257, 322  # numbers of TIFF tags
_FORMATS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # struct's letters of TIFF's types of whole numbers
_MAX_TAGS = 4096
_MAX_PAGES = 16


class SlideFile(NamedTuple):
    """A slide, and its name: the stem of its file, or its relative path if several slides have the same stem.

    The name is valid UTF-8: other bytes are escaped, as in the names of patches. `has_own_stem` is false if another
    slide has the same stem.
    """

    path: Path
    name: str
    has_own_stem: bool = True

    @property
    def keys(self) -> tuple[str, ...]:
        """The names by which files of the user, such as annotations, can mean this slide and no other one."""
        return (self.name, self.path.stem) if self.has_own_stem else (self.name,)

    @property
    def full_path(self) -> str:
        """The absolute path as valid UTF-8, as it is recorded."""
        return to_utf8(str(make_absolute(self.path)))


class FoundSlides(NamedTuple):
    """The slides of the inputs in order, and the files beside them that are not slides."""

    slides: list[SlideFile]
    others: list[Path]


def is_slide(path: str | Path) -> bool:
    """Return whether a file is a whole slide: a scanner's format, or a TIFF that is tiled or very large.

    A TIFF counts as tiled from 1,024 pixels on, and as very large from 8,192 pixels on. A file that cannot be read is
    a slide if its suffix is one that only scanners write, such as .svs; a PNG with such a suffix is an image.
    """
    is_named_slide = os.path.splitext(path)[1].lower() in _SLIDE_SUFFIXES  # noqa: PTH122 - of 100,000s of patches
    try:
        if is_named_slide:
            with open(path, "rb") as file:  # noqa: PTH123
                return file.read(len(_PNG)) != _PNG
        if os.stat(path).st_size < _MIN_SLIDE_BYTES:  # noqa: PTH116
            return False
        with open(path, "rb") as file:  # noqa: PTH123
            return any(_is_slide_page(tags) for tags in _read_tiff_pages(file))
    except (OSError, struct.error, ValueError):
        return is_named_slide


def _is_damaged_tiff(path: str | Path) -> bool:
    """Return whether a TIFF is empty or its first page cannot be read, as in a slide that was copied only in part."""
    if os.path.splitext(path)[1].lower() not in _TIFF_SUFFIXES:  # noqa: PTH122 - as in `is_slide`
        return False
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            next(_read_tiff_pages(file), None)  # nothing for a file of another kind
            return file.seek(0, os.SEEK_END) == 0
    except (OSError, struct.error, ValueError):
        return True


def _is_slide_page(tags: dict[int, int]) -> bool:
    longest = max(tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0))
    return longest >= _MIN_UNTILED_SIDE or (longest >= _MIN_TILED_SIDE and _TILE_WIDTH in tags)


def find_slides(inputs: Sequence[str]) -> FoundSlides | None:
    """Find the slides among the inputs, and in the folders among the inputs; return None if there are none.

    If there is a slide, every TIFF that is empty, or whose first page cannot be read, counts as a slide too: it was
    probably copied only in part. Files with a temporary name of a program that copies are not slides. A slide that is
    in several inputs is returned once, with its longest name.

    Raises:
        HistoError: a folder cannot be read.
        UsageError: some inputs are slides or folders of slides, and others are not; or one is the data of a slide.
    """
    slides: list[SlideFile] = []
    others: list[Path] = []
    without_slides: list[str] = []
    for given in inputs:
        path = Path(given)
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a name is too long
            files = list_without_maps(str(path))
            intact = {file for file in files if not is_incomplete(file) and is_slide(file)}
            found = [
                SlideFile(Path(file), Path(file).relative_to(path).with_suffix("").as_posix())
                for file in files
                if file in intact or (intact and _is_damaged_tiff(file))  # without slides it is a damaged patch
            ]
            if found:
                known = {slide.path for slide in found}
                rest = [file for file in map(Path, files) if file not in known]
                others += [file for file in rest if not _is_slide_data(file, known)]
            elif os.path.isfile(path / "Slidedat.ini"):  # noqa: PTH113
                raise UsageError(f"{given} is the folder of data of a MIRAX slide", f"give the file {path.name}.mrxs")
        else:
            name = path.stem if path.stem.strip(".") else path.name  # the stem of "...tif" is the folder above
            found = [SlideFile(path, name)] if os.path.isfile(path) and is_slide(path) else []  # noqa: PTH113
        slides += found
        if not found:
            without_slides.append(given)
    if not slides:
        return None
    damaged = [given for given in without_slides if os.path.isfile(given) and _is_damaged_tiff(given)]  # noqa: PTH113
    slides += [SlideFile(Path(given), Path(given).stem) for given in damaged]
    without_slides = [given for given in without_slides if given not in damaged]
    if without_slides:
        raise UsageError(
            f"{without_slides[0]} is not a slide and contains none, but other inputs do",
            "score slides and patches in two calls",
        )
    return FoundSlides(_make_names_unique(_drop_repeats(slides)), others)


def list_without_maps(folder: str) -> list[str]:
    """List the paths of the files in a folder and its subfolders, sorted, without those of maps of `histo predict`."""
    from histocli.slides.records import HEATMAP, RECORD_FILE, SCORES  # imports NumPy

    try:
        names = sorted(walk_folder(folder))
    except OSError as error:
        raise HistoError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error
    known = set(names)
    heatmaps = [name.removesuffix(HEATMAP) for name in names if f"/{name}".endswith(f"/{HEATMAP}")]
    maps = {place for place in heatmaps if {place + RECORD_FILE, place + SCORES} & known}
    kept = [name for name in names if name[: name.rfind("/") + 1] not in maps]
    return [os.path.join(folder, name) for name in kept]  # noqa: PTH118 - there may be 100,000s of patches


def _is_slide_data(file: Path, slides: set[Path]) -> bool:
    """Return whether a file is in the folder of data of a MIRAX or Hamamatsu slide."""
    return any(file.parent.with_suffix(suffix) in slides for suffix in (".mrxs", ".vms", ".vmu"))


def _drop_repeats(slides: list[SlideFile]) -> list[SlideFile]:
    """Keep one of the slides that are the same file under the same file name: the one with the longest name."""
    kept: dict[tuple[str, str], SlideFile] = {}
    for slide in slides:
        key = os.path.realpath(slide.path), slide.path.name
        kept[key] = max(kept.get(key, slide), slide, key=lambda repeat: len(repeat.name))
    return list(kept.values())


def _make_names_unique(slides: list[SlideFile]) -> list[SlideFile]:
    """Name slides by their stems where these differ, else by their relative paths, else by those with suffix."""
    for naming in (
        lambda slide: Path(slide.name).name,
        lambda slide: slide.name,
        lambda slide: f"{slide.name}{slide.path.suffix}",
        lambda slide: make_absolute(slide.path).as_posix().lstrip("/").replace(":", ""),
    ):
        names = [to_utf8(naming(slide)) for slide in slides]
        if len({name.lower() for name in names}) == len(slides):
            break
    stems = Counter(slide.path.stem for slide in slides)
    return [SlideFile(slide.path, name, stems[slide.path.stem] == 1) for slide, name in zip(slides, names, strict=True)]


def make_absolute(path: Path) -> Path:
    """Return an absolute path without "..", which would lead out of the folder of the maps."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps ".."


def _read_tiff_pages(file: BinaryIO) -> Iterator[dict[int, int]]:
    """Yield the tags of the first pages of a TIFF or BigTIFF that are whole numbers; nothing for other files.

    The first page of a slide can be its label.
    """
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        return
    version = struct.unpack(f"{order}H", head[2:4])[0]
    if version not in (42, 43):
        return
    is_big = version == 43
    offset = struct.unpack(f"{order}Q", head[8:16])[0] if is_big else struct.unpack(f"{order}I", head[4:8])[0]
    count_format, entry_format = (f"{order}Q", f"{order}HHQ") if is_big else (f"{order}H", f"{order}HHI")
    entry_size, head_size = (20, 12) if is_big else (12, 8)
    offset_format = f"{order}Q" if is_big else f"{order}I"
    for _ in range(_MAX_PAGES):
        file.seek(offset)
        count = struct.unpack(count_format, file.read(struct.calcsize(count_format)))[0]
        tags = {}
        for _ in range(min(count, _MAX_TAGS)):
            entry = file.read(entry_size)
            tag, kind, number = struct.unpack(entry_format, entry[:head_size])
            if number == 1 and kind in _FORMATS:
                value = entry[head_size:]
                tags[tag] = struct.unpack_from(f"{order}{_FORMATS[kind]}", value)[0]
        yield tags
        offset = struct.unpack(offset_format, file.read(struct.calcsize(offset_format)))[0]
        if not offset or count > _MAX_TAGS:
            return
