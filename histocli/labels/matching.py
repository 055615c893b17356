"""Match the ids of a table with image files: by path, file name or stem, with any slashes and suffixes."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from histocli.class_names import find_split
from histocli.errors import HistoError
from histocli.files.file import is_image, split_suffix
from histocli.text import format_count

_NUMBER = re.compile(r"(\d{1,39})(?:\.0|\.[A-Za-z]\w{1,4})?")  # also 7.0, which pandas writes, and 7.png
_ADDRESS = re.compile(r"\w+://")
_DRIVE = re.compile(r"[A-Za-z]:")


class TableMatch(NamedTuple):
    """The row of each image in a table, by the image's path; the other rows; and notes on guesses."""

    rows: dict[str, int]
    unmatched: list[int]
    ambiguous: dict[int, tuple[str, str]]
    notes: list[str]


class _NearestImages:
    """Chooses among images of the same name: those in the folder of the table, or of the split in its name, come first.

    For example, `train/labels.csv` has the id `3`, and there are `train/3.png` and `test/3.png`: the id means
    `train/3.png`. From then on, the table is taken to describe only images in `train/`; an id means another image only
    if it is the path of that image. The same is true for the split.
    """

    def __init__(self, folder: str, split: str) -> None:
        self._conditions: list[Callable[[str], bool]] = []
        if folder:
            prefix = f"{folder}/"
            self._conditions.append(lambda name: name.startswith(prefix))
        if split:
            self._conditions.append(lambda name: split in map(find_split, name.split("/")[:-1]))
        self.excluding: set[int] = set()  # the conditions that exclude other images

    def choose_nearest(self, images: list[int], names: Sequence[str]) -> list[int]:
        """Return those of the images that an id may name which are nearest to the table."""
        for number, condition in enumerate(self._conditions):
            inside = [i for i in images if condition(names[i])]
            if inside and len(inside) < len(images):
                self.excluding.add(number)
            images = inside if inside or number in self.excluding else images
        return images


class ImageIndex:
    """Finds images by ids; the folders of an id and of an image must agree from the innermost one on."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._first: dict[str, int] = {}  # the image of a key: its name or its stem
        self._more: dict[str, list[int]] = {}  # the other images of the same key; these are few
        for i, name in enumerate(names):
            base = _compose(name.rpartition("/")[2])
            stem, suffix = split_suffix(base)
            for key in (stem, stem + suffix.lower()) if suffix else (base,):
                if self._first.setdefault(key, i) != i:
                    self._more.setdefault(key, []).append(i)

    def match(self, ids: Sequence[str], folder: str = "", split: str = "", should_guess: bool = True) -> TableMatch:
        """Match every id with an image; of several, with the one below the `folder` of the table, or in its `split`.

        If the folders of an id are not those of the image, only its file name is used: for absolute paths, and if no
        id of the table matches otherwise. An id without its leading zeros matches the only image with the same number;
        one with quotation marks, or in another case, the only image of this name. All these are guesses, which are
        added to the notes.
        """
        nearest = _NearestImages(folder, split)
        while True:
            excluding = set(nearest.excluding)
            found = self._match_in(nearest, ids, should_guess)
            if nearest.excluding == excluding:
                return found

    def _match_in(self, nearest: _NearestImages, ids: Sequence[str], should_guess: bool) -> TableMatch:
        """Match every id with an image; the result is not complete if `nearest` begins to exclude images."""
        found = TableMatch({}, [], {}, [])
        by_name: dict[int, int] = {}
        excluding = len(nearest.excluding)
        for row in range(len(ids)):
            self._classify_row(row, ids, nearest, found, by_name)
            if len(nearest.excluding) > excluding:  # the rows before may have images that are excluded now
                return found
        if not should_guess or len(found.rows) == len(self.names):  # every image has its row
            return found
        absolute = {row: i for row, i in by_name.items() if _is_absolute(ids[row])}
        self._add_guessed(found, absolute if found.rows else by_name, ids, "by file name alone, since folders differ")
        by_number = self._match_by_number(found, ids, nearest)
        self._add_guessed(found, by_number, ids, "by number")
        cleaned = {row: key for row in found.unmatched if (key := _remove_marks(ids[row])) != ids[row]}
        only = self._match_only(cleaned, nearest)
        self._add_guessed(found, only, ids, "without quotation marks or the rest of an address")
        self._add_guessed(found, self._match_any_case(found, ids, nearest), ids, "in another case")
        return found

    def _choose_single(self, candidates: Mapping[int, list[int]], nearest: _NearestImages) -> dict[int, int]:
        """For each row that has exactly one preferred candidate, return this image."""
        preferred = {row: nearest.choose_nearest(images, self.names) for row, images in candidates.items()}
        return {row: images[0] for row, images in preferred.items() if len(images) == 1}

    def _match_only(self, keys: Mapping[int, str], nearest: _NearestImages) -> dict[int, int]:
        """For each row whose key is the file name, the stem or the address of exactly one image, return this image."""
        good = {row: key for row, key in keys.items() if "/" not in key or _ADDRESS.match(key)}
        candidates = {row: self._candidates(key.rpartition("/")[2]) for row, key in good.items()}
        return self._choose_single(candidates, nearest)

    def _match_any_case(self, found: TableMatch, ids: Sequence[str], nearest: _NearestImages) -> dict[int, int]:
        """For each unmatched row that names exactly one image in another case, return this image."""
        if not found.unmatched:
            return {}
        images: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            for key in {split_suffix(name)[0], name.removesuffix(split_suffix(name)[1])}:
                images.setdefault(_compose(key).casefold(), []).append(i)
        keys = {row: _compose(ids[row].replace("\\", "/")) for row in found.unmatched}
        keys = {row: key.removesuffix(split_suffix(key)[1]) if is_image(key) else key for row, key in keys.items()}
        return self._choose_single({row: images.get(key.casefold(), []) for row, key in keys.items()}, nearest)

    def _classify_row(
        self, row: int, ids: Sequence[str], nearest: _NearestImages, found: TableMatch, by_name: dict[int, int]
    ) -> None:
        """Add a row to the matched, ambiguous or unmatched ones; also to `by_name` if only its folders differ."""
        only = None if nearest.excluding else self._first.get(ids[row])
        if only is not None and ids[row] not in self._more and found.rows.setdefault(self.names[only], row) == row:
            return  # this is true for nearly all rows
        parts = [part for part in _compose(ids[row]).replace("\\", "/").split("/") if part not in ("", ".")]
        candidates = self._candidates(parts[-1]) if parts else []
        folders = parts[-2::-1] if len(parts) > 1 else []
        scores = {i: _compare_folders(folders, self.names[i].split("/")[-2::-1]) for i in candidates} if folders else {}
        preferred = nearest.choose_nearest(candidates, self.names)
        fitting = [i for i in candidates if scores[i][0]] if folders else preferred
        if folders and fitting:
            best = max(scores[i] for i in fitting)
            fitting = [i for i in fitting if scores[i] == best]
            if best[1] < min(self.names[i].count("/") for i in fitting) or best[1] == 0:  # the id is not the whole path
                fitting = nearest.choose_nearest(fitting, self.names)
        if len(fitting) == 1:
            first = found.rows.setdefault(self.names[fitting[0]], row)
            if first != row and ids[first] != ids[row]:
                found.ambiguous[row] = (self.names[fitting[0]], self.names[fitting[0]])
        elif fitting:
            found.ambiguous[row] = (self.names[fitting[0]], self.names[fitting[1]])
        else:
            found.unmatched.append(row)
            if len(candidates) == len(preferred) == 1:
                by_name[row] = candidates[0]

    def _candidates(self, base: str) -> list[int]:
        """Return the images with a file name, with or without its suffix."""
        stem, suffix = split_suffix(base)
        exact = self._find_images(stem + suffix.lower())
        return exact or (self._find_images(stem) if is_image(base) else [])

    def _find_images(self, key: str) -> list[int]:
        return [self._first[key], *self._more.get(key, [])] if key in self._first else []

    def _match_by_number(self, found: TableMatch, ids: Sequence[str], nearest: _NearestImages) -> dict[int, int]:
        """For each unmatched row that is the number of exactly one image with leading zeros, return this image."""
        numbers = {row: number[1] for row in found.unmatched if (number := _NUMBER.fullmatch(ids[row]))}
        if not numbers:
            return {}
        images: dict[int, list[int]] = {}
        for i, name in enumerate(self.names):
            stem = split_suffix(name)[0]
            if stem.isdecimal() and len(stem) < 40:
                images.setdefault(int(stem), []).append(i)
        return self._choose_single({row: images.get(int(n), []) for row, n in numbers.items()}, nearest)

    def _add_guessed(self, found: TableMatch, rows: dict[int, int], ids: Sequence[str], how: str) -> None:
        """Add guessed rows, if no other row has the same image."""
        times: dict[int, int] = {}
        for i in rows.values():
            times[i] = times.get(i, 0) + 1
        good = {row: self.names[i] for row, i in rows.items() if times[i] == 1 and self.names[i] not in found.rows}
        if good:
            row, name = next(iter(good.items()))
            found.rows.update({name: row for row, name in good.items()})
            found.unmatched[:] = [row for row in found.unmatched if row not in good]
            found.notes.append(f"{format_count(len(good), 'id')} matched {how}: {ids[row]!r} with {name}")


def check_unambiguous(table: str, what: str, matched: TableMatch, ids: Sequence[str]) -> None:
    """Check that no id is that of two images, and no image has two ids.

    Raises:
        HistoError: there is such an id or image.
    """
    for row, (first, second) in matched.ambiguous.items():
        if first != second:
            raise HistoError(
                f"the id {ids[row]!r} in the table of {what} is that of two images, {first} and {second}",
                "use the paths of the images as ids in the table",
            )
        raise HistoError(
            f"{table}: the ids {ids[matched.rows[first]]!r} and {ids[row]!r} are both of the image {first}",
            "remove one of the two rows",
        )


def _compare_folders(first: Sequence[str], second: Sequence[str]) -> tuple[bool, int, bool]:
    """Compare two lists of folders, the innermost first.

    Return whether they are equal as far as the shorter one goes, how many folders are equal before the first
    difference, and whether both have the same length.
    """
    length = min(len(first), len(second))
    same = next((n for n in range(length) if first[n] != _compose(second[n])), length)
    return same == length, same, len(first) == len(second)


def _is_absolute(key: str) -> bool:
    return key.startswith(("/", "\\")) or _DRIVE.match(key) is not None


def _remove_marks(key: str) -> str:
    """Return an id without what spreadsheets and web servers add: `="a"`, `'a`, `"a"`, `https://host/a?x=1`."""
    text = re.sub(r"""^=?["'](.*?)["']?$""", r"\1", key)
    return re.sub(r"[?#].*$", "", text) if _ADDRESS.match(text) else text


def _compose(name: str) -> str:
    """Return a name in Unicode's composed form: macOS writes `ü` as two characters."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
