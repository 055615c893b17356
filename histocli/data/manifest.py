"""Read, check and write manifests: tables with one row per patch.

A manifest is a plain CSV file that a spreadsheet can open, with one row per patch of a packed array, in the array's
order. A subset such as `balanced.csv` also has the name of the data set (`data`) and the row in its array (`index`).
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from histocli.atomic import write_atomically
from histocli.errors import HistoError
from histocli.files.tables import SEPARATORS, make_table_writer, read_columns, read_table

if TYPE_CHECKING:
    import pandas as pd

POSITION_COLUMNS = ("x", "y", "mpp_x", "mpp_y")  # the fields of `histocli.patch.Position`, for patches of slides
SUBSET_COLUMNS = ("id", "label", "slide", "hospital", "split", "data", "index")
UNLABELLED = -1  # the value of a missing label, which is an empty field in the file

_NUMBER_COLUMNS = {"min", "max", "index"}
_MAX_HEADER = 1 << 20  # characters
_WHOLE_NUMBER = re.compile(r"[0-9]{1,15}")


class Row(NamedTuple):
    """A data set's manifest row; `min` and `max` are over the patch's 96*96*3 values."""

    id: str
    label: int | None
    slide: str
    hospital: str
    split: str
    sha1: str
    min: int
    max: int


COLUMNS = Row._fields


@contextmanager
def open_row_writer(path: Path, columns: tuple[str, ...] = COLUMNS) -> Iterator[Any]:
    """Yield a `csv.writer`; the complete file appears at `path` when the block ends without an exception."""
    with write_atomically(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = make_table_writer(file)
        writer.writerow(columns)
        yield writer


def write_manifest(path: Path, frame: "pd.DataFrame") -> None:
    """Write a manifest atomically; a label of `UNLABELLED` becomes an empty field."""
    columns = {name: frame[name].tolist() for name in frame.columns}  # faster than iteration over pandas columns
    columns["label"] = ["" if label == UNLABELLED else label for label in columns["label"]]
    with open_row_writer(path, tuple(columns)) as writer:
        writer.writerows(zip(*columns.values(), strict=True))


def read_manifest(path: Path, required: tuple[str, ...] = ("id", "label")) -> "pd.DataFrame":
    """Read and validate a manifest: text columns as str, `label` as int64 with `UNLABELLED` where it is empty.

    Semicolons or tabs as separators, a byte order mark, CRLF and additional columns are allowed, because spreadsheets
    write them.

    Raises:
        HistoError: the file or a column is missing, a value does not fit its column, or an id occurs twice in a split,
            or a row of the array occurs twice; the message names file, line and column.
    """
    import pandas as pd

    if not path.is_file():
        raise HistoError(
            f"there is no manifest {path}", "histo download packs a data set, and histo balance draws a subset of it"
        )
    with _open(path) as file:
        columns = read_columns(file, str(path))
    for name in required:
        if name not in columns:
            raise HistoError(f"{path}, line 1: there is no column {name!r}", f"it needs {', '.join(required)}")
    frame = pd.DataFrame(columns, dtype=str)
    frame["label"] = _parse_labels(frame["label"], path)
    for name in _NUMBER_COLUMNS & set(frame.columns):
        frame[name] = _parse_whole_numbers(frame[name], path)
    _refuse_bad_rows(path, "id", frame["id"], frame["id"] == "", "is empty")
    unique = ["id", "split"] if "split" in frame.columns else ["id"]  # PCam's valid and test share a few patches
    _refuse_bad_rows(path, "id", frame["id"], frame.duplicated(unique), "occurs twice")
    if "index" in frame.columns:
        _refuse_bad_rows(path, "index", frame["index"], frame["index"].duplicated(), "occurs twice")
    return frame


def is_subset(path: Path) -> bool:
    """Return whether a file is the manifest of a subset; False for that of a data set, and if there is no file."""
    return path.is_file() and "index" in read_header(path)


def read_header(path: Path) -> set[str]:
    """Return the names of the columns of a manifest, without reading its rows."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        names = re.split(f"[{SEPARATORS}]", file.readline(_MAX_HEADER))
    return {name.strip().strip('"') for name in names}


def find_line(path: Path, row: int) -> int:
    """Return the line (from 1) of the file on which a row (from 0) of the table begins."""
    with _open(path) as file:
        return next(islice(read_table(file, str(path))[1], row, None))[0]


class IdsDigest:
    """Compute the SHA-256 of ids in their order, which differs if a table is sorted, cut or renumbered by hand."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._digest = sha256()
        self.add(*ids)

    def add(self, *ids: str) -> None:
        """Add the next ids."""
        text = "".join(f"{len(key)}:{key}" for key in ids)
        self._digest.update(text.encode("utf-8", "surrogatepass"))

    def hexdigest(self) -> str:
        """Return the digest as hexadecimal text."""
        return self._digest.hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal text."""
    with path.open("rb") as file:
        return file_digest(file, sha256).hexdigest()


def _parse_labels(column: "pd.Series[str]", path: Path) -> "pd.Series[int]":
    """Return a column as labels, with -1 where it is empty."""
    known = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "": UNLABELLED}
    labels = column.map({text: known.get(text.strip()) for text in column.unique()})
    _refuse_bad_rows(path, "label", column, labels.isna(), "is not 0, 1 or empty")
    return labels.astype("int64")


def _parse_whole_numbers(column: "pd.Series[str]", path: Path) -> "pd.Series[int]":
    wrong = [text for text in column.unique() if not _WHOLE_NUMBER.fullmatch(text)]
    _refuse_bad_rows(path, str(column.name), column, column.isin(wrong), "is not a whole number")
    return column.astype("int64")


def _refuse_bad_rows(path: Path, name: str, column: "pd.Series[Any]", is_bad: "pd.Series[bool]", why: str) -> None:
    """Raise `HistoError` that names the first row for which `is_bad` is true, if there is one."""
    if is_bad.any():
        row = int(is_bad.to_numpy().argmax())
        value = str(column.iloc[row])
        raise HistoError(
            f"{path}, line {find_line(path, row)}, column {name}: {value!r} {why}", "correct it and try again"
        )


@contextmanager
def _open(path: Path) -> Iterator[IO[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise HistoError(f"cannot read {path}: {error.strerror}") from error
