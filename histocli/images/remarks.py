"""Remarks on images that were changed, or whose values were guessed: counted, with the first image as an example."""

from typing import NamedTuple


class Remark(NamedTuple):
    """The number of images that a remark is about, and the first of them."""

    images: int
    example: str


class Remarks(dict[str, Remark]):
    """The number of images, and an example, for each kind of change or guess."""

    def add(self, what: str, example: str, count: int = 1) -> None:
        """Count images."""
        before = self.get(what)
        self[what] = Remark(before.images + count, before.example) if before else Remark(count, example)

    def merge(self, others: "dict[str, Remark]") -> None:
        """Count the images of other remarks; these may come from a JSON file."""
        for what, (count, example) in others.items():
            self.add(what, example, count)

    def count_images(self) -> dict[str, int]:
        """Return the number of images for each kind of change or guess."""
        return {what: remark.images for what, remark in self.items()}
