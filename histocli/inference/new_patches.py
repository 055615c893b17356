"""`--skip-done`: select the patches that a file of predictions does not contain."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from histocli.errors import HistoError
from histocli.files.file import split_suffix, to_utf8
from histocli.fs import is_same_file
from histocli.inference.earlier_images import find_id_of_other_image
from histocli.inference.places import Place, PlaceKind
from histocli.inference.predicted_ids import PredictedIds
from histocli.patch import Patch
from histocli.text import format_count


def select_new_patches(
    patches: Sequence[Patch], predicted: PredictedIds, out: Path, places: Sequence[Place]
) -> list[Patch]:
    """Select the patches that the file does not contain; `places` are those of the images of this call.

    Raises:
        HistoError: a patch has another id in the file: one without leading zeros, of another kind, or with a path that
            begins in another folder; or another image has its id.
    """
    before = {replace(place, path=os.path.realpath(place.path)) for place in predicted.places}  # it may be a link now
    are_whole = bool(places) and all(place.kind is not PlaceKind.FILES for place in places)
    is_same = are_whole and set(places) == before
    if not is_same:
        common = [patch for patch in patches if patch.id in predicted.ids]
        _refuse_rows_of_other_arrays(common, predicted, out, places)
        _refuse_ids_of_other_images(common, predicted, out)
    new = [patch for patch in patches if patch.id not in predicted.ids]
    unmatched = predicted.ids - {patch.id for patch in patches}
    if not any(_has_leading_zeros(key) for key in predicted.ids):  # a spreadsheet removes those of all ids
        _refuse_lost_zeros(new, unmatched, out)
    if not is_same:  # else an image has the same id as before
        _refuse_other_ids(new, unmatched, out)
    return new


def _refuse_rows_of_other_arrays(
    common: list[Patch], predicted: PredictedIds, out: Path, places: Sequence[Place]
) -> None:
    """Raise `HistoError` if a patch has the id of a row of an array, and this array is not an input of this call."""
    for array in predicted.places:
        if array.kind is not PlaceKind.ARRAY or any(_is_same_array(array, place) for place in places):
            continue
        if rows := [patch for patch in common if array.has_row(patch.id)]:
            raise HistoError(
                f"--skip-done: {out} has the scores of the array {to_utf8(array.path)}, and "
                f"{format_count(len(rows), 'patch')} of another input would get the same ids, such as {rows[0].id!r}",
                "give another --out, or score all inputs in one call with a new --out, so that ids contain their "
                "names; if the array was moved, or another file is a newer version of it, put that file at "
                f"{to_utf8(array.path)}",
            )


def _is_same_array(array: Place, place: Place) -> bool:
    return array == place or (
        place.kind is PlaceKind.ARRAY and array.prefix == place.prefix and is_same_file(array.path, place.path)
    )


def _refuse_ids_of_other_images(common: list[Patch], predicted: PredictedIds, out: Path) -> None:
    """Raise `HistoError` if a patch has the id of another image, which is still where it was in an earlier call."""
    if predicted.id_kind and (other := find_id_of_other_image(common, predicted.places, predicted.id_kind)):
        patch, path = other
        raise HistoError(
            f"--skip-done: {to_utf8(patch.path)} would get the id {patch.id!r}, which {out} already has for {path}",
            "give another --out, or score all images in one call with --id path and a new --out, so that ids contain "
            "the folders; if the images were replaced, omit --skip-done and name all folders: the file is written anew",
        )


def _has_leading_zeros(key: str) -> bool:
    return len(key) > 1 and key[0] == "0" and key.isdecimal()


def _refuse_lost_zeros(new: list[Patch], unmatched: frozenset[str], out: Path) -> None:
    """Raise `HistoError` if ids of new patches are in the file without their leading zeros."""
    changed = {
        patch.id: short
        for patch in new
        if _has_leading_zeros(patch.id) and (short := patch.id.lstrip("0") or "0") in unmatched
    }
    if changed:
        key, short = next(iter(changed.items()))
        raise HistoError(
            f"--skip-done: {out} has {format_count(len(changed), 'id')} without leading zeros: {short!r} is probably "
            f"{key!r}",
            "a spreadsheet removes the zeros when it saves a file: restore the file, or give another --out; if these "
            "are different images, rename the new ones",
        )


def _refuse_other_ids(new: list[Patch], unmatched: frozenset[str], out: Path) -> None:
    """Raise `HistoError` if a new patch has another id in the file: of another kind, or from another folder.

    Every id of an image is the end of its whole path, from the file's name on, with or without the suffix.
    """
    known = {os.path.normpath(key): key for key in unmatched}  # find writes ./a.png
    for patch in new if unmatched else ():
        parts = os.path.abspath(patch.path).split("/") if patch.path else []  # noqa: PTH100 - Path keeps `..`
        ends = ["/".join(parts[start:]) for start in range(len(parts))]
        ends += [end.removesuffix(split_suffix(patch.path)[1]) for end in ends]
        if other := next((known[end] for end in ends if end in known), None):
            raise HistoError(
                f"--skip-done: {out} has the id {other!r}, and the same image would now get the id {patch.id!r}",
                "give the same inputs as before, or choose the kind of id that the file has: --id stem, path-stem or "
                "path; for another image, give another --out",
            )
