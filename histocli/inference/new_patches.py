"""`--skip-done`: select the patches that a file of predictions does not contain."""

import os
from collections.abc import Sequence
from pathlib import Path

from histocli.errors import HistoError
from histocli.files.file import split_suffix, to_utf8
from histocli.inference.earlier_images import find_other
from histocli.inference.predicted_ids import PredictedIds
from histocli.patch import Patch
from histocli.text import format_count


def select_new_patches(patches: Sequence[Patch], predicted: PredictedIds, out: Path, folder: str | None) -> list[Patch]:
    """Select the patches that the file does not contain; `folder` is the one that all patches are from, if any.

    Raises:
        HistoError: a patch has another id in the file: one without leading zeros, of another kind, or with a path that
            begins in another folder; or an image of another folder has its id.
    """
    is_same_folder = predicted.is_from(folder)
    if not is_same_folder:
        _refuse_ids_of_other_images(patches, predicted, out)
    new = [patch for patch in patches if patch.id not in predicted.ids]
    unmatched = predicted.ids - {patch.id for patch in patches}
    if not any(_has_leading_zeros(key) for key in predicted.ids):  # a spreadsheet removes those of all ids
        _refuse_lost_zeros(new, unmatched, out)
    if not is_same_folder:  # else an image has the same id as before
        _refuse_other_ids(new, unmatched, out)
    return new


def _refuse_ids_of_other_images(patches: Sequence[Patch], predicted: PredictedIds, out: Path) -> None:
    """Raise `HistoError` if a patch has the id of another image, which is still in the folder of an earlier call."""
    common = [patch for patch in patches if patch.id in predicted.ids]
    if predicted.folder and predicted.id_kind is None and common:  # an array, whose ids are the numbers of its rows
        raise HistoError(
            f"--skip-done: {out} has the scores of the array {predicted.folder}, and "
            f"{format_count(len(common), 'patch')} of another input would get the same ids, such as {common[0].id!r}",
            "give another --out, or score all inputs in one call with a new --out, so that ids contain their names",
        )
    folders = (predicted.folder,) if predicted.folder else predicted.folders
    if predicted.id_kind and (
        other := find_other(common, folders, predicted.id_kind, has_subfolders=bool(predicted.folder))
    ):
        patch, folder = other
        raise HistoError(
            f"--skip-done: {to_utf8(patch.path)} would get the id {patch.id!r}, which {out} has for another image, in "
            f"{folder}",
            "give another --out, or score all images in one call with --id path and a new --out, so that ids contain "
            "the folders; if the images were replaced, omit --skip-done to score all again",
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
