"""Find the labels and splits in the names of folders such as `train/no_tumor/` and `test/tumor/`."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from histocli.class_names import (
    SPLIT_NAMES,
    describe_counts,
    find_label,
    find_split,
    find_split_in_stem,
    find_splits_of_folders,
    find_unknown_splits,
    format_classes_option,
    has_other_label,
    replace_evaluation,
)
from histocli.errors import HistoError
from histocli.files.file import split_suffix

_MAX_SPLITS = 5  # more folders with both classes are slides or patients


@dataclass(frozen=True)
class ClassFolders:
    """The labels of images by the names of their folders.

    Attributes:
        labels: the label of each image in a class folder, by the image's path.
        counts: the number of images of each class folder, by its name and label.
        unknown: the number of images of each folder whose name is not understood.
        problem: the reason not to use the labels: contradicting folders, or more than two classes; else None.
        possible_splits: the names of folders that may be splits in another language; [] if there are none.
    """

    labels: dict[str, int]
    counts: dict[tuple[str, int], int]
    unknown: dict[str, int]
    problem: HistoError | None
    possible_splits: list[str]

    def check_labels(self, labels: Mapping[str, int], source: str, hint: str) -> None:
        """Check that the folders do not contradict the labels of a table, or of the files beside the images.

        Raises:
            HistoError: they do; `source` names what the labels are from.
        """
        other, n_both = self.find_differences(labels)
        if other:
            raise HistoError(
                f"{source} and the folders have different labels for {len(other):,} of {n_both:,} images: "
                f"{other[0]} has label {labels[other[0]]} in {source}",
                hint,
            )

    def find_differences(self, labels: Mapping[str, int]) -> tuple[list[str], int]:
        """Return the images that have another label by their folder, and the number of images with both labels."""
        both = [name for name in labels if name in self.labels] if self.problem is None else []
        return [name for name in both if self.labels[name] != labels[name]], len(both)


def read_splits(paths: Iterable[str]) -> dict[str, str]:
    """Return the split of each image that is in a folder such as `train`, `val` or `test`: train, valid or test.

    Raises:
        HistoError: two folders of a path have different splits; or a folder beside `train` is no split and no class.
    """
    paths = list(paths)
    folders = {path.rpartition("/")[0] for path in paths}
    _check_beside_train(folders)
    splits = find_splits_of_folders(part for folder in folders for part in folder.split("/"))
    by_folder = {folder: _find_split_of_path(folder, splits) for folder in folders}
    by_folder = replace_evaluation(by_folder)
    return {path: split for path in paths if (split := by_folder[path.rpartition("/")[0]])}


def read_splits_in_names(paths: Iterable[str]) -> dict[str, str]:
    """Return the splits in file names such as `train_001.png` and `test_002.png`; {} unless all names have one."""
    splits = replace_evaluation({path: find_split_in_stem(split_suffix(path)[0]) for path in paths})
    return splits if len(set(splits.values())) > 1 and all(splits.values()) else {}


def find_classes(paths: Iterable[str], classes: Mapping[str, int]) -> ClassFolders:
    """Find the labels by class folders; `paths` are relative, `classes` are the names that the user gave, if any."""
    paths = list(paths)
    folders = Counter(path.rpartition("/")[0] for path in paths if "/" in path)
    known = _label_folders(folders, classes)
    parts = {folder: _find_known_parts(folder, known) for folder in folders}
    problem = _find_contradiction(parts, known, bool(classes))
    problem = problem or (None if classes else _find_more_classes(folders, known, parts))
    counts: Counter[tuple[str, int]] = Counter()
    unknown: Counter[str] = Counter()
    for folder, count in folders.items():
        if parts[folder]:
            counts[parts[folder][0]] += count
        elif names := [part for part in folder.split("/") if not find_split(part)]:
            unknown[names[-1]] += count
    labels = {path: found[0][1] for path in paths if "/" in path and (found := parts[path.rpartition("/")[0]])}
    return ClassFolders(labels, counts, unknown, problem, _find_possible_splits(parts))


def _find_possible_splits(parts: Mapping[str, list[tuple[str, int]]]) -> list[str]:
    """Return the names of two to five folders that each have both classes, if none has a digit or is a known split.

    They may be splits in another language. Folders of slides and patients have numbers.
    """
    labels_of: dict[str, set[int]] = {}
    for folder, found in parts.items():
        class_names = {name for name, _ in found}
        rest = "/".join(part for part in folder.split("/") if part not in class_names)
        labels_of.setdefault(rest, set()).update(label for _, label in found)
    names = sorted(labels_of)
    is_possible = 2 <= len(names) <= _MAX_SPLITS and all(labels == {0, 1} for labels in labels_of.values())
    is_named = all(name and not re.search(r"\d", name) and not any(map(find_split, name.split("/"))) for name in names)
    return names if is_possible and is_named else []


def _label_folders(folders: Iterable[str], classes: Mapping[str, int]) -> dict[tuple[int, str], int]:
    """Return the label of each class folder, by its depth and name.

    Numbers are classes only at a depth that has no other numbers: `tumor/0` to `tumor/8` are not classes.
    """
    names = {(depth, part) for folder in folders for depth, part in enumerate(folder.split("/"))}
    numbers: dict[int, set[str]] = {}
    for depth, part in names:
        if part.isdecimal():
            numbers.setdefault(depth, set()).add(part)
    known = {}
    for depth, part in names:
        is_number = part.isdecimal() and not classes
        label = find_label(part, classes)
        if label is not None and not (is_number and not numbers[depth] <= {"0", "1"}):
            known[depth, part] = label
    return known


def _find_known_parts(folder: str, known: Mapping[tuple[int, str], int]) -> list[tuple[str, int]]:
    return [(part, known[depth, part]) for depth, part in enumerate(folder.split("/")) if (depth, part) in known]


def _find_contradiction(
    parts: Mapping[str, list[tuple[str, int]]], known: Mapping[tuple[int, str], int], is_given: bool
) -> HistoError | None:
    """Return the error for two folders of one path that have different labels; None if there are none.

    If the user gave the classes (`is_given`), the names of other folders do not matter.
    """
    line = format_classes_option(part for _, part in known)
    for folder, found in parts.items():
        if len({label for _, label in found}) > 1:
            names = " and ".join(f"{part} (label {label})" for part, label in found)
            return HistoError(
                f"two folders of {folder}/ have different labels: {names}", f"name the class folders: {line}"
            )
        below = folder.split("/")[folder.split("/").index(found[0][0]) + 1 :] if found else []
        if not is_given and (odd := next((part for part in below if has_other_label(part, *found[0])), None)):
            return HistoError(
                f"the folder {odd} is below {found[0][0]} (label {found[0][1]}), but its name means another label",
                f"move {odd} out of {found[0][0]}, or name the class folders: {line}",
            )
    return None


def _find_split_of_path(folder: str, split_of_part: Mapping[str, str]) -> str:
    """Return the split in the folders of a path; raise `HistoError` if there are two."""
    splits = {part: split_of_part[part] for part in folder.split("/") if part in split_of_part}
    if len(set(splits.values())) > 1:
        raise HistoError(
            f"two folders of {folder}/ have the names of different splits: {' and '.join(splits)}",
            "rename one of them, or give the folders below it to --from",
        )
    return next(iter(splits.values()), "")


def _check_beside_train(folders: Iterable[str]) -> None:
    """Check that each folder beside a folder `train` is a split or a class: other images would be used for training."""
    children: dict[str, set[str]] = {}
    for folder in folders:
        above = ""
        for part in folder.split("/"):
            children.setdefault(above, set()).add(part)
            above = f"{above}/{part}"
    for parts in children.values():
        unknown = [part for part in find_unknown_splits(parts) if find_label(part) is None]
        if unknown and any(find_split(part) == "train" for part in parts):
            known = sorted(part for part in parts if find_split(part))
            raise HistoError(
                f"the folder {unknown[0]} is beside {' and '.join(known)}, but its name is not a split",
                f"rename it; the names are {SPLIT_NAMES}. Or give only the folders that you need to --from",
            )


def _find_more_classes(
    folders: Mapping[str, int],
    known: Mapping[tuple[int, str], int],
    parts: Mapping[str, list[tuple[str, int]]],
) -> HistoError | None:
    """Find folders without a label that are next to class folders, or are numbered like classes, such as 0 to 8."""
    class_depths = {depth for depth, _ in known}
    parents = {folder[: match.start()] for folder in folders if parts[folder] for match in re.finditer("/", folder)}
    neighbours: Counter[str] = Counter()
    for folder, count in folders.items():
        for depth, part in enumerate(folder.split("/")):
            is_candidate = not parts[folder] and not find_split(part) and (depth in class_depths or _is_number(part))
            if (depth, part) in known or (is_candidate and folder not in parents):
                neighbours[part] += count
                break
    unknown = set(neighbours) - {part for _, part in known}
    if not unknown or not (known or {"0", "1"} <= unknown):
        return None
    number = f"{len(neighbours)} classes" if len(neighbours) > 2 else "2 classes, of which one is not understood"
    return HistoError(
        f"the folders have {number}: {describe_counts(neighbours)}",
        f"choose the normal and the tumour folders, for example {format_classes_option(neighbours)}; "
        "other folders get no label",
    )


def _is_number(name: str) -> bool:
    return name.isdecimal() and len(name) <= 2
