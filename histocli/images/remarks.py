"""Remarks on images that were changed, or whose values were guessed: counted, with the first image as an example."""

from dataclasses import dataclass

from histocli.schema import Count


@dataclass(frozen=True)
class Remark:
    """The number of images that a remark is about, and the first of them.

    `smallest` and `largest` are the width and height of two of them, by the number of pixels; None if the remark is not
    about the size.
    """

    images: Count
    example: str
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None

    @property
    def sizes(self) -> str:
        """The smallest and the largest size, such as 20x20 to 64x64; "" if the remark is not about the size."""
        sizes = dict.fromkeys(size for size in (self.smallest, self.largest) if size)
        return " to ".join(f"{width}x{height}" for width, height in sizes)

    def __add__(self, other: "Remark") -> "Remark":
        """Return the remark on the images of both; the example is the first one's."""
        sizes = [size for remark in (self, other) for size in (remark.smallest, remark.largest) if size]
        smallest, largest = min(sizes, key=_order, default=None), max(sizes, key=_order, default=None)
        return Remark(self.images + other.images, self.example, smallest, largest)


def _order(size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Return the key by which sizes are compared: the number of pixels; of equal ones, the width."""
    return size[0] * size[1], size


class Remarks(dict[str, Remark]):
    """The number of images, and an example, for each kind of change or guess."""

    def add(self, what: str, example: str, size: tuple[int, int] | None = None) -> None:
        """Count an image; `size` is its width and height, if the remark is about them."""
        self.merge({what: Remark(1, example, size, size)})

    def merge(self, others: "dict[str, Remark]") -> None:
        """Count the images of other remarks."""
        for what, remark in others.items():
            self[what] = self[what] + remark if what in self else remark

    def count_images(self) -> dict[str, int]:
        """Return the number of images for each kind of change or guess."""
        return {what: remark.images for what, remark in self.items()}

    def list_sizes(self) -> list[str]:
        """Return a sentence on the sizes of the images for each kind of change of the size."""
        return [
            f"the images that were {what} had {remark.sizes} pixels" for what, remark in self.items() if remark.sizes
        ]
