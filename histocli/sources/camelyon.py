"""The names and hospitals of Camelyon16's slides, and PCam's table of the slides of its patches."""

import csv
import re
from pathlib import Path

from histocli.errors import HistoError

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
    slides: list[str] = []
    centres: list[int | None] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, strict=True)
            if "wsi" not in (rows.fieldnames or ()):
                raise HistoError(f"{path}, line 1: there is no column 'wsi'", "give the meta table of PCam")
            for row in rows:
                if None in row or None in row.values():
                    what = f"{path}, line {rows.line_num}: the row has more or fewer fields than the header"
                    raise HistoError(what, "download it again with --force")
                slides.append((row["wsi"] or "").strip())
                centres.append(_parse_label(path, rows.line_num, row.get("center_tumor_patch")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise HistoError(f"{path} is not a CSV table: {error}", "download it again with --force") from error
    return slides, centres


def _parse_label(path: Path, line: int, value: str | None) -> int | None:
    """Parse a cell of the column `center_tumor_patch`."""
    if value is None:
        return None
    if value.strip().lower() not in _LABEL_VALUES:
        raise HistoError(f"{path}, line {line}, column center_tumor_patch: {value!r} is neither true nor false")
    return _LABEL_VALUES[value.strip().lower()]
