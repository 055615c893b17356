"""Remarks on images that were changed, or whose values were guessed: counted, with the first image as an example."""

from dataclasses import dataclass

from histocli.schema import Count


@dataclass(frozen=True)
class Remark:
    """The number of images that a remark is about, and the first of them."""

    images: Count
    example: str


class Remarks(dict[str, Remark]):
    """The number of images, and an example, for each kind of change or guess."""

    def add(self, what: str, example: str, count: int = 1) -> None:
        """Count images."""
        before = self.get(what)
        self[what] = Remark(before.images + count, before.example) if before else Remark(count, example)

    def merge(self, others: "dict[str, Remark]") -> None:
        """Count the images of other remarks."""
        for what, remark in others.items():
            self.add(what, remark.example, remark.images)

    def count_images(self) -> dict[str, int]:
        """Return the number of images for each kind of change or guess."""
        return {what: remark.images for what, remark in self.items()}
