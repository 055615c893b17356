"""The pages of TIFF and BigTIFF files, and their tags (TIFF 6.0, section 2)."""

import re
from functools import cached_property, lru_cache
from struct import Struct, error
from typing import Literal

from histocli.images import tiff_tags
from histocli.images.sizes import ImageError, Size

_CODES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_MASKS = {1: 0xFF, 3: 0xFFFF, 4: 0xFFFFFFFF}  # the largest value of a byte, a short and a long
_MAX_VALUES = 1 << 22  # the largest number of values of one tag; a large slide has some 100,000 tiles
_MAX_PAGES = 256
_RATIONAL = 5  # the type of tags that hold two longs
_PAIRS = {order: Struct(f"{order}II") for order in "<>"}
_IMAGEJ_MICRONS = re.compile(r"^unit=(micron|um|µm|\\u00B5m)", re.MULTILINE)
_MIN_MPP, _MAX_MPP = 0.05, 20.0  # 72 dots per inch, which many programs write, would be 353


_struct = lru_cache(256)(Struct)


class Page:
    """One page (image file directory) of a TIFF or BigTIFF; its tags are read when they are needed.

    Raises:
        ImageError: the page lies outside the file, or gives a tag two values.
    """

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.order = data, "<" if data[:2] == b"II" else ">"
        is_big = data[2:4] in (b"\x2b\0", b"\0\x2b")
        number, entry, link = _STRUCTS[self.order, is_big]
        try:
            (count,) = number.unpack_from(data, at)
            self._first, self._entry_size, self._room = at + number.size, entry.size, link.size
            end = self._first + count * entry.size
            (self.next,) = link.unpack_from(data, end)
            entries = list(entry.iter_unpack(data[self._first : end]))
        except (error, OverflowError):  # an offset of 64 bits can be larger than Python's
            raise ImageError("the image is truncated: its directory lies outside the file") from None
        self.tags = {fields[0]: (i, fields) for i, fields in enumerate(entries)}
        if len(self.tags) < len(entries) and len(self.tags) < len(set(entries)):  # other programs may use the other one
            raise ImageError("the image is damaged: a tag has two values")

    def read_values(self, tag: int) -> tuple[int, ...]:
        """Return all values of a tag, () if the page does not have it."""
        if tag not in self.tags:
            return ()
        i, (_, kind, count, offset) = self.tags[tag]
        if count == 1 and self.order == "<" and kind in _MASKS:
            return (offset & _MASKS[kind],)
        if count > _MAX_VALUES or kind not in _CODES:
            raise ImageError(f"the image is damaged: its tag {tag} has {count:,} values of type {kind}")
        values = _struct(f"{self.order}{count}{_CODES[kind]}")
        if values.size <= self._room:  # small values are stored instead of the offset
            offset = self._first + (i + 1) * self._entry_size - self._room
        try:
            return values.unpack_from(self.data, offset)
        except (error, OverflowError):
            raise ImageError(f"the image is truncated: its tag {tag} lies outside the file") from None

    def read_value(self, tag: int, default: int) -> int:
        """Return the first value of a tag, or `default` if the page does not have the tag."""
        values = self.read_values(tag)
        return values[0] if values else default

    @cached_property
    def size(self) -> Size:
        """The width and height in pixels."""
        return Size(self.read_value(tiff_tags.WIDTH, 0), self.read_value(tiff_tags.HEIGHT, 0))

    @cached_property
    def mpp(self) -> float | None:
        """The micrometres per pixel that the page's tags say; None if they say none that a microscope has."""
        unit = {2: 25_400.0, 3: 10_000.0}.get(self.read_value(tiff_tags.RESOLUTION_UNIT, 2))
        if unit is None and _IMAGEJ_MICRONS.search(self.description):
            unit = 1.0
        i, (_, kind, count, place) = self.tags.get(tiff_tags.X_RESOLUTION, (0, (0, 0, 0, 0)))
        if unit is None or kind != _RATIONAL or count != 1:
            return None
        if self._room >= _PAIRS[self.order].size:
            place = self._first + (i + 1) * self._entry_size - self._room
        try:
            pixels, units = _PAIRS[self.order].unpack_from(self.data, place)
        except error:
            return None
        mpp = unit * units / pixels if pixels else 0.0
        return mpp if _MIN_MPP <= mpp <= _MAX_MPP else None

    @cached_property
    def description(self) -> str:
        """The ImageDescription, in which ImageJ and OME say what the pages are."""
        return bytes(self.read_values(tiff_tags.DESCRIPTION)).rstrip(b"\0").decode("utf-8", "replace")


_STRUCTS = {
    (order, is_big): tuple(Struct(order + code) for code in (("Q", "HHQQ", "Q") if is_big else ("H", "HHII", "I")))
    for order in "<>"
    for is_big in (False, True)
}


def is_tiff(data: bytes) -> bool:
    """Return whether the bytes begin as a TIFF or BigTIFF."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_first_page(data: bytes) -> Page:
    """Return the first page of a TIFF; raises as `Page`."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    begin = data[8:16] if data[2:4] in (b"\x2b\0", b"\0\x2b") else data[4:8]
    return Page(data, int.from_bytes(begin, order))


def read_following_pages(page: Page) -> list[Page]:
    """Return the pages after a page, at most 256 and up to a loop in the file; without the versions in SubIFDs."""
    pages: list[Page] = []
    seen = {0}
    while page.next not in seen and len(pages) < _MAX_PAGES:
        seen.add(page.next)
        page = Page(page.data, page.next)
        pages.append(page)
    return pages


def count_levels(page: Page) -> int:
    """Return how many versions of the image a TIFF holds: more than one for a pyramid, such as a whole slide."""
    if not page.next and tiff_tags.SUB_IFDS not in page.tags:
        return 1
    ratio = page.size.width / max(1, page.size.height)
    others = [Page(page.data, at) for at in page.read_values(tiff_tags.SUB_IFDS)[:_MAX_PAGES] if at]
    smaller = [
        other.size
        for other in [*others, *read_following_pages(page)]
        if 1 < other.size.width < page.size.width
        and other.size.height
        and abs(other.size.width / other.size.height / ratio - 1) < 0.1
    ]
    return 1 + len(set(smaller))
