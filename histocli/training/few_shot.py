"""`--shots`: train on a few patches of each class."""

import numpy as np

from histocli.data.dataset import Subset
from histocli.errors import HistoError
from histocli.reports.run import Shots

_CLASSES = ("normal", "tumour")


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
    drawn = train.select(mask)
    slides = drawn.frame["slide"]
    known = None if (slides == "").any() else int(slides.nunique())
    return drawn, Shots(shots, tuple(drawn.frame["id"].astype(str)), known, len(train.labels))
