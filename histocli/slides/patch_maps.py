"""Find the positions of scored patches in their slides, and make maps of their scores."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from histocli.config import PATCH_MPP
from histocli.data.manifest import POSITION_COLUMNS, UNLABELLED, read_header, read_manifest
from histocli.errors import HistoError, UsageError, describe_value
from histocli.files.tables import read_columns
from histocli.slides.measures import Map
from histocli.slides.resolution import GivenResolutions, UnknownResolutionError, are_different
from histocli.slides.slide import MAX_LENGTH, keep_plausible_mpp
from histocli.slides.source import LABEL_SIDE
from histocli.workspace import Workspace

_ID_END = re.compile(r"(?:^|/)([^/\n]+)_x([0-9]{1,9})_y([0-9]{1,9})\Z")  # in the ids of `SlidesSource`
_SQUARE_MM = LABEL_SIDE * PATCH_MPP / 1000  # side of the square that a patch's label and score describe
_MAX_MOVED = 0.1  # of the side of a cell: a patch that is as near to the middle of its cell is on the grid
_MAX_CELLS = 300  # along the longer side of a map: smaller cells could not be seen
_PROBABILITY_COLUMNS = ("probability", "prob", "label")  # the first one in the table is used

Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class PatchMap:
    """Scored patches of a slide as a map of square cells, whose rows and columns begin at `top` and `left`.

    Attributes:
        slide: the name of the slide.
        patches: the number of patches.
        moved: the number of patches that are not in the middle of their cell, because their distances are no multiple
            of its side; 0 if cells are larger than the square that a patch describes.
        probs: the mean probability of the patches in each cell (rows, columns), NaN where there are none.
        labels: 1 where a patch of the cell is tumour, 0 where none is, NaN where no label is known.
        left: the distance of the first column from the left edge of the slide in millimetres.
        top: the distance of the first row from the upper edge of the slide in millimetres.
        side: the side of a cell in millimetres.
    """

    slide: str
    patches: int
    moved: int
    probs: Map
    labels: Map
    left: float
    top: float
    side: float


class PlacedPatches(NamedTuple):
    """Scored patches with a position, and the number of those without one.

    `table` has the columns slide, x, y, mpp_x, mpp_y (NaN where the resolution is not known), prob, and label, which is
    `UNLABELLED` where it is not known.
    """

    table: pd.DataFrame
    n_unplaced: int


def place_evaluation(workspace: Workspace, scores: pd.DataFrame) -> PlacedPatches:
    """Return the positions of an evaluation's scored patches: from the manifests of their data sets, else from ids."""
    placed = []
    for name, rows in scores.groupby("data", sort=False):
        known = _read_positions(workspace, [str(name)]) if name else _NO_POSITIONS
        placed.append(_place(rows["id"], rows["prob"], rows["label"], known))
    return _join(placed)


def place_predictions(workspace: Workspace, path: Path, data: Sequence[str]) -> PlacedPatches:
    """Return the positions of the patches in a table of `histo predict` or `histo eval`, and their labels.

    The ids are looked up in the manifests of the data sets `data`, by default of all in the workspace. For other ids,
    the position is taken from the id.

    Raises:
        HistoError: the table cannot be read, or has no ids and probabilities; or two data sets have the same id with
            different positions or labels.
    """
    table = _read_predictions(path)
    known = _read_positions(workspace, list(data) or workspace.list_datasets())
    known = known[known["id"].isin(table["id"])]
    if (twice := known["id"].duplicated()).any():
        raise HistoError(
            f"{path}: several data sets have the id {known['id'][twice].iloc[0]}, with other positions or labels",
            "name the data set that was scored: --data NAME",
        )
    labels = table["label"] if "label" in table else pd.Series(UNLABELLED, table.index)
    return _join([_place(table["id"], table["prob"], labels, known)])


def make_patch_maps(placed: PlacedPatches, given: GivenResolutions) -> list[PatchMap]:
    """Make the map of each slide, sorted by name: the mean probability and the label of the patches in each cell.

    `given` has the resolutions of slides for which the data set has none.

    Raises:
        UnknownResolutionError: the resolution of a slide is not known.
        HistoError: `given` has another resolution than the data set, or two patches have the same position.
    """
    return [_make_patch_map(str(slide), rows, given) for slide, rows in placed.table.groupby("slide", sort=True)]


def _make_patch_map(slide: str, rows: pd.DataFrame, given: GivenResolutions) -> PatchMap:
    if (twice := rows.duplicated(["x", "y"])).any():
        x, y = rows.loc[twice, ["x", "y"]].to_numpy()[0]
        raise HistoError(
            f"two patches of the slide {slide} have the position x {x}, y {y}",
            "slides with the same name need different names",
        )
    mpp_x, mpp_y = _find_mpp(slide, rows, given)
    half = _SQUARE_MM / 2
    x = rows["x"].to_numpy(np.float64) * mpp_x / 1000 + half
    y = rows["y"].to_numpy(np.float64) * mpp_y / 1000 + half
    merged = max(1, int(np.ceil(max(np.ptp(x), np.ptp(y)) / (_SQUARE_MM * _MAX_CELLS))))
    side = _SQUARE_MM * merged
    left, top = float(x.min()) - half, float(y.min()) - half
    columns, row_numbers = (np.floor((at - start) / side).astype(np.int64) for at, start in ((x, left), (y, top)))
    shape = int(row_numbers.max()) + 1, int(columns.max()) + 1
    cell = row_numbers * shape[1] + columns
    moved_x, moved_y = np.abs(x - left - (columns + 0.5) * side), np.abs(y - top - (row_numbers + 0.5) * side)
    moved = 0 if merged > 1 else int((np.maximum(moved_x, moved_y) > _MAX_MOVED * side).sum())
    counts = np.bincount(cell, minlength=shape[0] * shape[1])
    sums = np.bincount(cell, rows["prob"].to_numpy(np.float64), len(counts))
    probs = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    labels = np.full(len(counts), UNLABELLED)
    np.maximum.at(labels, cell, rows["label"].to_numpy(np.int64))
    known = np.where(labels == UNLABELLED, np.nan, labels.astype(np.float64))
    return PatchMap(slide, len(rows), moved, probs.reshape(shape), known.reshape(shape), left, top, side)


def _find_mpp(slide: str, rows: pd.DataFrame, given: GivenResolutions) -> tuple[float, float]:
    """Return the micrometres per level-0 pixel (x, y) of a slide."""
    x, y = rows[["mpp_x", "mpp_y"]].astype(float).to_numpy()[0]
    recorded, _ = keep_plausible_mpp(None if np.isnan(x) else x, None if np.isnan(y) else y)
    given_mpp = given.by_slide.get(slide, given.for_all)
    if recorded is None and given_mpp is None:
        raise UnknownResolutionError(
            f"the resolution of the slide {slide} is not known, so its patches cannot be drawn to scale",
            "give the micrometres per pixel of its largest level: --mpp 0.25, or --mpp FILE.csv with slide,mpp",
        )
    if recorded is not None and given_mpp is not None and are_different(given_mpp, recorded[0]):
        raise UsageError(f"the slide {slide} has {recorded[0]:.4g} micrometres per pixel, and --mpp says {given_mpp:g}")
    return recorded or (float(given_mpp or 0), float(given_mpp or 0))


_NO_POSITIONS = pd.DataFrame(columns=["id", "slide", *POSITION_COLUMNS, "label"])


def _read_positions(workspace: Workspace, names: Sequence[str]) -> pd.DataFrame:
    """Return id, slide, x, y, mpp_x, mpp_y and label of the patches of those data sets that have positions."""
    frames = [_NO_POSITIONS]
    for name in names:
        path = workspace.manifest_path(name)
        if path.is_file() and {"x", "y", "slide"} <= read_header(path):
            manifest = read_manifest(path, ("id", "label", "slide", "x", "y"))
            for column in POSITION_COLUMNS:  # data sets of earlier versions have no resolution
                texts = manifest[column] if column in manifest else pd.Series("", manifest.index)
                manifest[column] = pd.to_numeric(texts, errors="coerce").replace([np.inf, -np.inf], np.nan)
            _check_positions(path, manifest)
            frames.append(manifest.loc[manifest["x"].notna() & manifest["y"].notna(), list(_NO_POSITIONS.columns)])
    found = [frame for frame in frames if len(frame)] or frames[:1]
    return pd.concat(found, ignore_index=True).drop_duplicates()


def _check_positions(path: Path, manifest: pd.DataFrame) -> None:
    """Raise `HistoError` if a position is not a whole number of pixels within a slide."""
    for column in ("x", "y"):
        values = manifest[column].dropna()
        if (is_wrong := ~((values % 1 == 0) & values.between(-MAX_LENGTH, MAX_LENGTH))).any():
            key, value = manifest["id"][values.index[is_wrong][0]], float(values[is_wrong].iloc[0])
            raise HistoError(f"{path}, column {column}: {key} has the position {value:g}", "correct it and try again")


def _place(ids: "pd.Series[str]", probs: "pd.Series[float]", labels: "pd.Series[int]", known: pd.DataFrame) -> Any:
    """Return the table of `PlacedPatches`, with an empty slide where the position is not known."""
    scored = pd.DataFrame({"id": ids.to_numpy(), "prob": probs.to_numpy(), "scored_label": labels.to_numpy()})
    table = scored.merge(known.drop_duplicates("id"), "left", "id")
    in_ids = table["id"].str.extract(_ID_END)
    table["slide"] = table["slide"].fillna(in_ids[0]).fillna("")
    for column, texts in (("x", in_ids[1]), ("y", in_ids[2])):
        table[column] = pd.to_numeric(table[column]).fillna(pd.to_numeric(texts))
    is_known = table["scored_label"] != UNLABELLED
    table["label"] = table["scored_label"].where(is_known, table["label"].fillna(UNLABELLED)).astype("int64")
    return table


def _join(tables: list[Any]) -> PlacedPatches:
    table = pd.concat(tables, ignore_index=True)
    is_placed = table["x"].notna()
    placed = table[is_placed].astype({"x": "int64", "y": "int64"})
    return PlacedPatches(placed, int((~is_placed).sum()))


def _read_predictions(path: Path) -> pd.DataFrame:
    """Return the columns id, prob, and label if the table has labels beside probabilities."""
    if not path.is_file():
        raise HistoError(f"there is no table {path}", "histo predict --out scores.csv writes one")
    with path.open(encoding="utf-8-sig", newline="") as file:
        columns = read_columns(file, str(path))
    name = next((column for column in _PROBABILITY_COLUMNS if column in columns), None)
    if name is None or "id" not in columns:
        raise HistoError(
            f"{path}: the columns id and probability are needed", "give the CSV file that histo predict wrote"
        )
    table = pd.DataFrame({"id": columns["id"], "prob": pd.to_numeric(pd.Series(columns[name], dtype=str), "coerce")})
    if (wrong := ~table["prob"].between(0, 1)).any():
        row = int(wrong.to_numpy().argmax())
        raise HistoError(
            f"{path}: the {name} of {table['id'][row]} is {describe_value(columns[name][row])}, not from 0 to 1",
            "give the CSV file that histo predict wrote",
        )
    if name == "prob" and "label" in columns:
        known = {"0": 0, "1": 1}
        table["label"] = [known.get(text.strip(), UNLABELLED) for text in columns["label"]]
    return table
