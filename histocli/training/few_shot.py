"""`--shots`: train on a few patches of each class."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from histocli.data.dataset import Subset
from histocli.errors import HistoError

_CLASSES = ("normal", "tumour")


class Shots(NamedTuple):
    """The patches that were drawn: their number of each class, their ids, their slides, and what they were drawn from.

    `slides` is None if the slides are not known.
    """

    per_class: int
    ids: Sequence[str]
    slides: int | None
    drawn_from: int

    def describe(self, seed: int) -> str:
        """Return a sentence that says what was drawn."""
        k, slides = self.per_class, self.slides
        where = "" if slides is None else f" from {slides:,} slide{'s' if slides != 1 else ''}"
        return (
            f"few-shot: {k:,} tumour and {k:,} normal patches{where}, drawn with seed {seed} from {self.drawn_from:,} "
            "training patches"
        )


def draw_shots(train: Subset, shots: int, seed: int) -> tuple[Subset, Shots]:
    """Return `shots` patches of each class, and a record of them.

    They depend only on the patches and the seed. The patches of a smaller number are among those of a larger one.

    Raises:
        HistoError: there are fewer patches of a class.
    """
    mask = np.zeros(len(train.labels), bool)
    for label, name in enumerate(_CLASSES):
        rows = np.flatnonzero(train.labels == label)
        if len(rows) < shots:
            raise HistoError(
                f"--shots {shots}: there are only {len(rows):,} training patches with the label {name}",
                f"give --shots {len(rows)} or fewer" if len(rows) else "histo balance selects patches of both classes",
            )
        mask[np.random.default_rng([seed, label]).permutation(rows)[:shots]] = True
    drawn = train.where(mask)
    slides = drawn.frame["slide"]
    known = None if (slides == "").any() else int(slides.nunique())
    return drawn, Shots(shots, drawn.frame["id"].astype(str).tolist(), known, len(train.labels))
