"""Folds: each patch is validated once, and groups are not divided."""

import numpy as np
import pandas as pd
import pytest

from histocli.data.folds import make_folds
from histocli.data.groups import OVERLAP, find_connected_components, find_held_out_hospitals, find_split_unit
from histocli.enums import Group
from histocli.errors import HistoError


def manifest(n=120, slides=12, groups=None):
    """Return labelled rows of both classes, and some without a label or held out."""
    rng = np.random.default_rng(4)
    frame = pd.DataFrame(
        {
            "id": [f"p{i:03}" for i in range(n)],
            "label": rng.permutation(np.arange(n) % 2),
            "slide": [f"s{i % slides}" if slides else "" for i in range(n)],
            "split": np.where(np.arange(n) % 5 == 0, "val", "train"),
        }
    )
    if groups:
        frame[OVERLAP] = ["" if i % 3 == 0 else f"g{i % groups}" for i in range(n)]
    frame.loc[n - 2, "label"] = -1
    frame.loc[n - 1, "split"] = "test"
    return frame


def test_patches_are_connected_through_slides_and_overlap_groups():
    frame = pd.DataFrame({"slide": list("aa  b ")}).replace(" ", "")
    frame[OVERLAP] = ["1", "", "1", "2", "2", ""]
    by, number = find_connected_components(frame)
    assert by == "slide or overlap group"
    assert [set(np.flatnonzero(number == i)) for i in range(3)] == [{0, 1, 2}, {3, 4}, {5}]
    assert find_connected_components(frame.assign(slide=list("abcdef")))[0] == "slide"
    by, number = find_connected_components(frame.drop(columns=OVERLAP).assign(slide=["a", "", "a", "", "b", "b"]))
    assert by == "slide or patch"  # where no group is known
    assert len(set(number)) == 4


@pytest.mark.parametrize(("slides", "groups", "by"), [(12, 20, "slide"), (0, 20, "overlap group"), (0, 0, "patch")])
def test_folds_contain_every_patch_once_and_do_not_divide_groups(slides, groups, by):
    made = make_folds(manifest(slides=slides, groups=groups), 4, seed=1)
    assert made.by == by
    assert len(made.manifest) == 118
    held = []
    for fold in range(4):
        split = made.split(fold)
        val, train = (split[split["split"] == part] for part in ("val", "train"))
        assert len(val) + len(train) == 118
        assert len(val) == pytest.approx(118 / 4, abs=12)
        assert val["label"].mean() == pytest.approx(0.5, abs=0.2)
        for column in {"slide": ["slide"], "overlap group": [OVERLAP], "patch": []}[by]:
            assert set(val[column]) & set(train[column]) <= {""}
        assert find_split_unit(split) == by
        held += val["id"].tolist()
    assert sorted(held) == sorted(made.manifest["id"])
    assert (make_folds(manifest(slides=slides, groups=groups), 4, seed=1).number == made.number).all()
    assert (make_folds(manifest(slides=slides, groups=groups), 4, seed=2).number != made.number).any()


@pytest.mark.parametrize(
    ("splits", "hospitals", "expected"),
    [("tvv", "BAA", ["A"]), ("tvv", "BAC", ["A", "C"]), ("tvv", "ABA", []), ("tvv", "B A", []), ("tvv", " AA", [])],
)
def test_hospitals_are_held_out_if_all_are_known_and_none_is_in_both_splits(splits, hospitals, expected):
    frame = pd.DataFrame({"split": [{"t": "train", "v": "val"}[split] for split in splits]})
    assert find_held_out_hospitals(frame) == []
    frame["hospital"] = [name.strip() for name in hospitals]
    assert find_held_out_hospitals(frame) == expected


def test_folds_by_hospital_do_not_divide_hospitals():
    frame = manifest().assign(hospital=lambda rows: "h" + rows["slide"].str[1:].astype(int).mod(3).astype(str))
    made = make_folds(frame, 3, seed=0, group=Group.HOSPITAL)
    held = [set(rows.loc[rows["split"] == "val", "hospital"]) for rows in map(made.split, range(3))]
    assert sorted(map(sorted, held)) == [["h0"], ["h1"], ["h2"]]
    with pytest.raises(HistoError, match="3 hospitals cannot be divided into 4 folds"):
        make_folds(frame, 4, seed=0, group=Group.HOSPITAL)


@pytest.mark.parametrize(("slides", "k"), [(3, 4), (0, 70)])
def test_too_many_folds_are_refused(slides, k):
    with pytest.raises(HistoError, match=f"cannot be divided into {k} folds"):
        make_folds(manifest(slides=slides), k, seed=0)


def test_folds_with_one_class_are_refused():
    frame = manifest(40, 4)
    frame["label"] = (frame["slide"] == "s1").astype(int)
    with pytest.raises(HistoError, match="both classes"):
        make_folds(frame, 2, seed=0)


def test_find_split_unit_names_what_the_splits_do_not_share():
    frame = manifest(slides=12)
    assert find_split_unit(frame) == "patch"
    assert find_split_unit(frame.assign(split=np.where(frame["slide"] == "s3", "val", "train"))) == "slide"
    grouped = manifest(slides=0, groups=7)
    assert find_split_unit(grouped) == "patch"
    assert find_split_unit(grouped.assign(split=np.where(grouped[OVERLAP] == "g4", "val", "train"))) == "overlap group"
    assert find_split_unit(grouped.assign(**{OVERLAP: ""})) == "patch"
