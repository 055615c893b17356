"""The arrangement of the pixels of a TIFF's page in its segments (strips and tiles)."""

from typing import Any

import numpy as np

from histocli.data.sizes import ImageError, check_pixels
from histocli.data.tiff_pages import Page
from histocli.data.tiff_segments import JPEG, NONE, UNPACK

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
_MOST_SAMPLES = 8

Values = np.ndarray[Any, np.dtype[Any]]


class Layout:
    """The arrangement of the pixels of a page in its segments.

    Raises:
        ImageError: the page's tags contradict each other, or the image is too large.
    """

    def __init__(self, page: Page) -> None:
        self.page, (self.width, self.height) = page, page.size
        self.compression = page.value(259, 1)
        self.samples, self.is_planar = page.value(277, 1), page.value(284, 1) == 2
        bits = page.values(258) or (1,)
        self.bits, self.photometric = bits[0], page.value(262, RGB)
        self.kind, self.predictor = page.value(339, 1), page.value(317, 1)
        if not 0 < self.samples <= _MOST_SAMPLES or set(bits) != {self.bits} or not 0 < self.bits <= 64:
            raise ImageError(f"the image has {self.samples} samples of {', '.join(map(str, bits[:4]))} bits")
        self.is_tiled = 322 in page.tags
        if self.is_tiled:
            self.segment_width, self.segment_height = page.value(322, 0), page.value(323, 0)
        else:
            self.segment_width, self.segment_height = self.width, min(page.value(278, self.height), self.height)
        check_pixels(self.segment_width, self.segment_height)
        self.across = -(-self.width // self.segment_width)
        self.down = -(-self.height // self.segment_height)
        self.planes = self.samples if self.is_planar else 1
        self.chunk = 1 if self.is_planar else self.samples  # samples in a pixel of a segment
        if (count := self.across * self.down) > self.width * self.height:
            raise ImageError(f"the image is damaged: it has {count:,} segments")

    @property
    def is_assembled_here(self) -> bool:
        """Whether `assemble` and `_to_rgb` know all that these pixels are."""
        known = self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE)
        is_plain = self.predictor == 1 or (self.predictor == 2 and self.kind in (1, 2))
        return known and is_plain and self.bits in (8, 16, 32, 64) and self.page.value(266, 1) == 1

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The type of the samples in the file."""
        kinds = {1: "u", 2: "i", 3: "f", 4: "u"}
        if self.kind not in kinds or (self.kind == 3 and self.bits == 8):
            raise ImageError(f"the image holds samples of the kind {self.kind}, {self.bits} bits")
        return np.dtype(f"{self.page.order}{kinds[self.kind]}{self.bits // 8}")

    def _row_bytes(self) -> int:
        return (self.segment_width * self.chunk * self.bits + 7) // 8

    def segment_bytes(self, rows: int) -> int:
        """Return how many bytes `rows` rows of a segment have when they are unpacked."""
        if self.photometric == YCBCR and not self.is_planar and self.compression != JPEG:
            across, down = (self.page.values(530) or (2, 2))[:2]
            blocks = -(-self.segment_width // max(1, across)) * -(-rows // max(1, down))
            return blocks * (across * down + 2) * self.bits // 8
        return rows * self._row_bytes()

    def read_segments(self) -> list[bytes]:
        """Read and unpack every segment.

        Raises:
            ImageError: a segment lies outside the file, is damaged, or gives fewer or more bytes than it should.
        """
        unpack, segments = UNPACK[self.compression], []
        for i, (at, length) in enumerate(self.places()):
            rows = self.segment_height
            if not self.is_tiled:
                rows = min(rows, self.height - i % self.down * rows)
            wanted = self.segment_bytes(rows)
            packed = self.page.data[at : at + (length or wanted)]
            most = self.segment_bytes(self.segment_height)  # some programs fill the last strip up
            segments.append(unpack(packed, wanted, most))
        return segments

    def places(self) -> list[tuple[int, int]]:
        """Return where each segment begins, and its length, 0 where it is not given and nothing is compressed."""
        offsets, counts = (self.page.values(tag) for tag in ((324, 325) if self.is_tiled else (273, 279)))
        wanted = self.across * self.down * self.planes
        if not counts and self.compression == NONE:
            counts = (0,) * len(offsets)
        if len(offsets) < wanted or len(counts) < wanted:
            raise ImageError(f"the image is damaged: it has {min(len(offsets), len(counts))} segments of {wanted}")
        size = len(self.page.data)
        for at, length in zip(offsets[:wanted], counts, strict=False):
            if at + length > size or (not length and self.compression != NONE):
                raise ImageError("the image is truncated: a part of it lies outside the file")
        return list(zip(offsets[:wanted], counts, strict=False))

    def assemble(self, segments: list[bytes]) -> Values:
        """Join unpacked segments to an array (H,W,S)."""
        dtype = self.dtype
        if not self.is_tiled and not self.is_planar and self.predictor == 1:
            whole = b"".join(segments) if len(segments) > 1 else segments[0]
            return np.frombuffer(whole, dtype).reshape(self.height, self.width, self.samples)
        native = dtype.newbyteorder("=")
        image = np.empty((self.height, self.width, self.samples), native)
        for i, segment in enumerate(segments):
            plane, place = divmod(i, self.across * self.down)
            y, x = (
                n * size
                for n, size in zip(divmod(place, self.across), (self.segment_height, self.segment_width), strict=True)
            )
            part = np.frombuffer(segment, dtype).reshape(-1, self.segment_width, self.chunk).astype(native, copy=False)
            if self.predictor == 2:
                part = np.cumsum(part, 1, native)
            part = part[: self.height - y, : self.width - x]
            image[y : y + len(part), x : x + part.shape[1], plane : plane + self.chunk] = part
        return image
