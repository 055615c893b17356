"""Convert images with more than 8 bits, or with fractions, to uint8; the value of white is inferred."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from histocli.images.sizes import ImageError

T = TypeVar("T")
Values = np.ndarray[Any, np.dtype[Any]]

SAMPLE_SIZE = 256  # images of a set that are read, evenly spaced, to infer which value is white
# An image whose largest value is a quarter of white could be dark, or could be stored with two bits fewer.
_DARKNESS_FACTOR = 4
_HINT = "save the images as uint8, 0 to 255"


@dataclass(frozen=True)
class ValueRange:
    """The values of images: from 0, which is black, to `top`, which is white; `kind` is u2, i2, f4 ... as in NumPy."""

    kind: str
    top: float

    def __str__(self) -> str:
        if self.kind[0] == "f":
            return f"fractions from 0 to {self.top:g}"
        return f"{int(self.top).bit_length()}-bit integers, 0 to {self.top:,.0f}"

    def convert(self, values: Values, high: float) -> Values:
        """Return the values as uint8; `high` is the largest of them.

        Raises:
            ImageError: a value is below 0, above `top` or not finite; or all are so small that the image may have
                another range than its set.
        """
        if 0 < high <= self.top / _DARKNESS_FACTOR:
            raise ImageError(
                f"it holds values up to {high:,.4g} only, but the other images hold {self}: it would be nearly black",
                "run histo once for the images of each range",
            )
        if high > self.top:
            raise ImageError(f"it holds values up to {high:,.4g}, but the other images hold {self}", _HINT)
        if self.kind[0] == "f":
            return np.rint(np.asarray(values, np.float64) * (255 / self.top)).astype(np.uint8)
        return (values >> max(0, int(self.top).bit_length() - 8)).astype(np.uint8)


# The range of each kind of values in a set of images; an error if the range is ambiguous.
Ranges = Mapping[str, ValueRange | ImageError]


def to_uint8(values: Values, ranges: Ranges | None) -> tuple[Values, str]:
    """Return an image as uint8, and a remark that names the range of its values, "" if they are uint8.

    `ranges` are those of the image's set. If there is no set (None), the range is inferred from this image alone.

    Raises:
        ImageError: the values do not fit the range of their set, or their range is ambiguous or unknown.
    """
    if values.dtype == np.uint8:
        return values, ""
    kind, high = _find_type_name(values), _find_largest(values)
    found = _infer_range(kind, high) if ranges is None else ranges.get(kind)
    if found is None:
        raise ImageError(
            f"it holds {values.dtype.name} values; the (at most {SAMPLE_SIZE}) images that were read to find the value "
            "of white hold none",
            f"run histo once for the {values.dtype.name} images and once for the others, or {_HINT}",
        )
    if isinstance(found, ImageError):
        raise found
    return found.convert(values, high), f"read as {found}"


def _infer_range(kind: str, largest: float) -> ValueRange | ImageError:
    """Infer which value is white from the largest value in a set of images; return an error if it is ambiguous.

    It is the candidate, such as 255 or 4,095, that is at least `largest` and less than twice as large.
    """
    if kind[0] == "f":
        candidates: tuple[float, ...] = (1.0, 255.0)
    else:
        candidates = tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 15 if kind == "i2" else 16))
    for top in candidates:
        if top / 2 < largest <= top:
            return ValueRange(kind, top)
    what = "fractions" if kind[0] == "f" else "integers"
    known = ", ".join(f"{top:,.0f}" for top in candidates)
    return ImageError(f"it holds {what} up to {largest:,.4g}, so it is not clear which value is white ({known})", _HINT)


def infer_ranges(images: Iterable[Values | None]) -> dict[str, ValueRange | ImageError]:
    """Infer the range of each kind of images in a set; None, uint8 and images with values below 0 are skipped."""
    largest: dict[str, float] = {}
    for image in images:
        if image is None or image.dtype == np.uint8:
            continue
        try:
            kind, high = _find_type_name(image), _find_largest(image)
        except ImageError:
            continue  # `to_uint8` refuses this image later
        largest[kind] = max(largest.get(kind, 0), high)
    return {kind: _infer_range(kind, high) for kind, high in largest.items()}


def list_white(ranges: Ranges) -> dict[str, float]:
    """Return the value of white of each kind of images whose range is not ambiguous."""
    return {kind: found.top for kind, found in ranges.items() if isinstance(found, ValueRange)}


def pick_sample(items: Sequence[T]) -> Sequence[T]:
    """Return at most `SAMPLE_SIZE` of the items, evenly spaced, with the first and the last."""
    if len(items) <= SAMPLE_SIZE:
        return items
    return [items[round(i * (len(items) - 1) / (SAMPLE_SIZE - 1))] for i in range(SAMPLE_SIZE)]


def _find_type_name(values: Values) -> str:
    """Return NumPy's name of the type, without its byte order.

    Raises:
        ImageError: it is neither an integer nor a fraction.
    """
    if values.dtype.kind not in "uif":
        raise ImageError(f"its values are {values.dtype}", _HINT)
    return values.dtype.str[1:]


def _find_largest(values: Values) -> float:
    """Return the largest value; raise `ImageError` if a value is negative or not finite."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ImageError("it holds values that are not finite", _HINT)
    if low < 0:
        raise ImageError(f"it holds values below 0, down to {low:,.4g}", _HINT)
    return high
