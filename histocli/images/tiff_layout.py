"""The arrangement of the pixels of a TIFF's page in its segments (strips and tiles)."""

from typing import Any

import numpy as np

from histocli.images import tiff_tags
from histocli.images.intensity import Values
from histocli.images.sizes import ImageError, check_pixels
from histocli.images.tiff_pages import Page
from histocli.images.tiff_segments import JPEG, NONE, UNPACK

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
_MAX_SAMPLES = 8


class Layout:
    """The arrangement of the pixels of a page in its segments.

    Raises:
        ImageError: the page's tags contradict each other, or the image is too large.
    """

    def __init__(self, page: Page) -> None:
        self.page, (self.width, self.height) = page, page.size
        self.compression = page.read_value(tiff_tags.COMPRESSION, 1)
        self.samples = page.read_value(tiff_tags.SAMPLES_PER_PIXEL, 1)
        self.is_planar = page.read_value(tiff_tags.PLANAR_CONFIGURATION, 1) == 2
        bits = page.read_values(tiff_tags.BITS_PER_SAMPLE) or (1,)
        self.bits, self.photometric = bits[0], page.read_value(tiff_tags.PHOTOMETRIC, RGB)
        self.sample_format = page.read_value(tiff_tags.SAMPLE_FORMAT, 1)
        self.predictor = page.read_value(tiff_tags.PREDICTOR, 1)
        if not 0 < self.samples <= _MAX_SAMPLES or set(bits) != {self.bits} or not 0 < self.bits <= 64:
            raise ImageError(f"the image has {self.samples} samples of {', '.join(map(str, bits[:4]))} bits")
        self.is_tiled = tiff_tags.TILE_WIDTH in page.tags
        if self.is_tiled:
            self.segment_width = page.read_value(tiff_tags.TILE_WIDTH, 0)
            self.segment_height = page.read_value(tiff_tags.TILE_HEIGHT, 0)
        else:
            self.segment_width = self.width
            self.segment_height = min(page.read_value(tiff_tags.ROWS_PER_STRIP, self.height), self.height)
        check_pixels(self.segment_width, self.segment_height)
        self.segments_across = -(-self.width // self.segment_width)
        self.segments_down = -(-self.height // self.segment_height)
        self.planes = self.samples if self.is_planar else 1
        self.samples_in_segment = 1 if self.is_planar else self.samples  # samples in a pixel of a segment
        if (count := self.segments_across * self.segments_down) > self.width * self.height:
            raise ImageError(f"the image is damaged: it has {count:,} segments")

    @property
    def is_assembled_here(self) -> bool:
        """Whether `assemble` can decode these pixels, without OpenCV."""
        is_known = self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE)
        is_plain = self.predictor == 1 or (self.predictor == 2 and self.sample_format in (1, 2))
        is_in_order = self.page.read_value(tiff_tags.FILL_ORDER, 1) == 1
        return is_known and is_plain and is_in_order and self.bits in (8, 16, 32, 64)

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The type of the samples in the file."""
        kinds = {1: "u", 2: "i", 3: "f", 4: "u"}
        if self.sample_format not in kinds or (self.sample_format == 3 and self.bits == 8):
            raise ImageError(f"the image holds samples of the kind {self.sample_format}, {self.bits} bits")
        return np.dtype(f"{self.page.order}{kinds[self.sample_format]}{self.bits // 8}")

    def compute_segment_size(self, rows: int) -> int:
        """Return how many bytes `rows` rows of a segment have when they are unpacked."""
        if self.photometric == YCBCR and not self.is_planar and self.compression != JPEG:
            across, down = (self.page.read_values(tiff_tags.YCBCR_SUBSAMPLING) or (2, 2))[:2]
            blocks = -(-self.segment_width // max(1, across)) * -(-rows // max(1, down))
            return blocks * (across * down + 2) * self.bits // 8
        row_bits = self.segment_width * self.samples_in_segment * self.bits
        return rows * -(-row_bits // 8)

    def read_segments(self) -> list[bytes]:
        """Read and unpack every segment.

        Raises:
            ImageError: a segment lies outside the file, is damaged, or gives fewer or more bytes than it should.
        """
        unpack, segments = UNPACK[self.compression], []
        largest = self.compute_segment_size(self.segment_height)  # some programs write the last strip in full height
        for i, (at, length) in enumerate(self.find_segments()):
            rows = self.segment_height
            if not self.is_tiled:
                rows = min(rows, self.height - i % self.segments_down * rows)
            wanted = self.compute_segment_size(rows)
            packed = self.page.data[at : at + (length or wanted)]
            segments.append(unpack(packed, wanted, largest))
        return segments

    def find_segments(self) -> list[tuple[int, int]]:
        """Return the position and the length of each segment; 0 if an uncompressed segment has no length."""
        tags = tiff_tags
        places = (tags.TILE_OFFSETS, tags.TILE_BYTES) if self.is_tiled else (tags.STRIP_OFFSETS, tags.STRIP_BYTES)
        offsets, counts = map(self.page.read_values, places)
        wanted = self.segments_across * self.segments_down * self.planes
        if not counts and self.compression == NONE:
            counts = (0,) * len(offsets)
        if len(offsets) < wanted or len(counts) < wanted:
            raise ImageError(f"the image is damaged: it has {min(len(offsets), len(counts))} of {wanted} segments")
        segments = list(zip(offsets[:wanted], counts, strict=False))
        for at, length in segments:
            if at + length > len(self.page.data) or (not length and self.compression != NONE):
                raise ImageError("the image is truncated: a segment lies outside the file")
        return segments

    def assemble(self, segments: list[bytes]) -> Values:
        """Join unpacked segments to an array (H,W,S)."""
        dtype = self.dtype
        if not self.is_tiled and not self.is_planar and self.predictor == 1:
            whole = b"".join(segments) if len(segments) > 1 else segments[0]
            return np.frombuffer(whole, dtype).reshape(self.height, self.width, self.samples)
        native = dtype.newbyteorder("=")
        image = np.empty((self.height, self.width, self.samples), native)
        for i, segment in enumerate(segments):
            plane, place = divmod(i, self.segments_across * self.segments_down)
            row, column = divmod(place, self.segments_across)
            y, x = row * self.segment_height, column * self.segment_width
            pixels = np.frombuffer(segment, dtype).astype(native, copy=False)
            pixels = pixels.reshape(-1, self.segment_width, self.samples_in_segment)
            if self.predictor == 2:
                pixels = np.cumsum(pixels, 1, native)
            pixels = pixels[: self.height - y, : self.width - x]
            image[y : y + len(pixels), x : x + pixels.shape[1], plane : plane + self.samples_in_segment] = pixels
        return image
