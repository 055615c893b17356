"""The names and hospitals of Camelyon16's slides, and PCam's table of the slides of its patches."""

import re
from pathlib import Path

from histocli.errors import HistoError
from histocli.files.file import make_file
from histocli.labels.table_files import read_patch_table

_PREFIX = re.compile(r"^camelyon16_(?:train_)?(?=.)")
_SLIDE = re.compile(r"(?:^|_)(normal|tumor)_(\d+)$")
_LAST_RUMC_SLIDE = {"normal": 100, "tumor": 70}
_LABEL_VALUES = {"0": 0, "1": 1, "false": 0, "true": 1, "0.0": 0, "1.0": 1}


def remove_prefix(slide: str) -> str:
    """Return the name that the file of a Camelyon16 slide has; other names are returned unchanged.

    PCam and Kaggle name the slides `tumor_001` and `test_001` `camelyon16_train_tumor_001` and `camelyon16_test_001`.
    """
    return _PREFIX.sub("", slide)


def find_hospital(slide: str) -> str:
    """Return the hospital of a Camelyon16 training slide, RUMC or UMCU, or "" for another slide.

    Normal slides 1 to 100 and tumour slides 1 to 70 are from Radboud, the others from Utrecht. The name of a test
    slide does not show its hospital.
    """
    match = _SLIDE.search(slide)
    if match is None:
        return ""
    return "RUMC" if int(match[2]) <= _LAST_RUMC_SLIDE[match[1]] else "UMCU"


def read_meta(path: Path) -> tuple[list[str], list[int | None]]:
    """Read the columns `wsi` and, if it exists, `center_tumor_patch` of PCam's meta table.

    Raises:
        HistoError: the file is not such a table; the message names file, line and column.
    """
    table = read_patch_table(make_file(path))
    slides = table.columns[table.require("slide", "wsi")]
    column = table.find("label", "center_tumor_patch")
    if column is None:
        return slides, [None] * len(slides)
    texts = table.columns[column]
    centres = [_LABEL_VALUES.get(text.lower()) for text in texts]
    if None in centres:
        row = centres.index(None)
        raise HistoError(f"{table.describe_place(column, row)}: {texts[row]!r} is neither true nor false")
    return slides, list(centres)
