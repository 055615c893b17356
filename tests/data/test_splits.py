"""Cleaning, balancing, and splitting without leaks."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.data.manifest import UNLABELLED
from histocli.data.splits import draw_balanced, drop_unusable, split_by_group, split_random
from histocli.errors import HistoError


def manifest(rows):
    frame = pd.DataFrame(rows, columns=["id", "label", "split", "sha1", "min", "max"])
    return frame.astype({"label": "int64"})


def make_frame(*labels):
    return pd.DataFrame({"id": [f"p{i}" for i in range(len(labels))], "label": labels})


# cleaning


def test_each_dropped_row_is_counted_once_with_its_first_reason():
    frame = manifest(
        [
            ("good", 1, "train", "a", 10, 240),
            ("dark", 0, "train", "b", 0, 9),
            ("bright", 0, "", "c", 246, 255),
            ("edge dark", 0, "", "d", 0, 10),
            ("edge bright", 1, "train", "e", 245, 255),
            ("unlabelled", UNLABELLED, "train", "f", 10, 240),
            ("unlabelled and dark", UNLABELLED, "train", "g", 0, 0),
            ("copy", 1, "train", "a", 10, 240),
            ("copy of the dark", 0, "train", "b", 0, 9),
            ("held out", 1, "test", "h", 10, 240),
            ("held out and unlabelled", UNLABELLED, "valid", "i", 10, 240),
            ("first in test", 1, "validation", "j", 10, 240),
            ("then in train", 1, "train", "j", 10, 240),
        ]
    )
    kept, dropped = drop_unusable(frame)
    assert vars(dropped) == {"held_out": 3, "unlabelled": 2, "outliers": 3, "duplicates": 1, "leaking": 0}
    assert kept["id"].tolist() == ["good", "edge dark", "edge bright", "then in train"]
    assert len(frame) == 13


def test_a_clean_table_is_not_changed():
    frame = manifest([(str(i), i % 2, "train", str(i), 0, 255) for i in range(5)])
    kept, dropped = drop_unusable(frame)
    assert kept.equals(frame)
    assert dropped.list_reasons() == {}


# balancing


@given(st.lists(st.integers(0, 1), min_size=2, max_size=60), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=50, deadline=None)
def test_half_of_each_class_is_drawn_by_the_seed_and_keeps_its_order(labels, seed, data):
    frame = make_frame(*labels)
    largest = 2 * min(labels.count(0), labels.count(1))
    if largest == 0:
        with pytest.raises(HistoError, match="both classes are needed"):
            draw_balanced(frame, 2, seed)
        return
    n = 2 * data.draw(st.integers(1, largest // 2))
    drawn = draw_balanced(frame, n, seed)
    assert (drawn["label"] == 0).sum() == (drawn["label"] == 1).sum() == n // 2
    assert drawn.index.is_monotonic_increasing
    assert drawn.index.is_unique
    assert drawn.equals(frame.loc[drawn.index])
    assert drawn.equals(draw_balanced(frame, n, seed))


def test_another_seed_draws_other_rows():
    frame = make_frame(*[0, 1] * 200)
    assert draw_balanced(frame, 100, 1)["id"].tolist() != draw_balanced(frame, 100, 2)["id"].tolist()


def test_every_row_is_drawn_equally_often():
    frame = make_frame(*[0] * 10 + [1] * 40)
    counts = np.zeros(50)
    for seed in range(400):
        counts[draw_balanced(frame, 10, seed).index] += 1
    assert (np.abs(counts[:10] - 200) < 50).all()
    assert (np.abs(counts[10:] - 50) < 35).all()


@pytest.mark.parametrize(
    ("n", "message", "hint"),
    [
        (
            8,
            "--n 8 asks for 4 of each class; there are 5 normal and 3 tumour patches",
            "the largest n possible is --n 6",
        ),
        (100, "--n 100 asks for 50 of each class", "--n 6"),
    ],
)
def test_an_impossible_n_says_what_is_possible(n, message, hint):
    with pytest.raises(HistoError, match=message) as raised:
        draw_balanced(make_frame(*[0] * 5 + [1] * 3), n, 0)
    assert hint in raised.value.hint


# splitting


SLIDES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).filter(any), min_size=1, max_size=8)


def layout(counts):
    groups = np.repeat([f"slide {i}" for i in range(len(counts))], [sum(pair) for pair in counts]).astype(object)
    labels = np.concatenate([[0] * negative + [1] * positive for negative, positive in counts])
    order = np.random.default_rng(len(groups)).permutation(len(groups))
    return groups[order], labels[order]


def possible(counts):
    sizes = np.array(counts)
    for chosen in itertools.product([False, True], repeat=len(counts)):
        val = sizes[np.array(chosen)].sum(0)
        if (val > 0).all() and (val < sizes.sum(0)).all():
            return True
    return False


@given(SLIDES, st.floats(0.05, 0.5), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_slides_are_not_divided_and_both_splits_have_both_classes_if_possible(counts, fraction, seed):
    groups, labels = layout(counts)
    if not possible(counts):
        with pytest.raises(HistoError, match=rf"{len(counts)} slides? cannot be split") as raised:
            split_by_group(groups, labels, fraction, seed)
        assert "--split random" in raised.value.hint
        return
    val = split_by_group(groups, labels, fraction, seed)
    assert val.shape == labels.shape
    assert val.dtype == bool
    assert not set(groups[val]) & set(groups[~val])
    assert set(labels[val]) == set(labels[~val]) == {0, 1}
    assert np.array_equal(val, split_by_group(groups, labels, fraction, seed))


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_with_many_slides_the_fraction_is_close_for_both_classes(fraction, seed):
    rng = np.random.default_rng(seed)
    counts = [(int(rng.integers(5, 60)), int(rng.integers(0, 60)) * int(rng.integers(0, 2))) for _ in range(80)]
    groups, labels = layout(counts)
    val = split_by_group(groups, labels, fraction, seed)
    for label in (0, 1):
        assert val[labels == label].mean() == pytest.approx(fraction, abs=0.02)


def test_other_seeds_hold_out_other_slides():
    groups, labels = layout([(10, 10)] * 20)
    held = {tuple(np.unique(groups[split_by_group(groups, labels, 0.2, seed)])) for seed in range(5)}
    assert len(held) > 1


@pytest.mark.parametrize("counts", [[(50, 50)], [(10, 0), (10, 0), (10, 30)], [(0, 5), (5, 0)], [(9, 0), (7, 0)]])
def test_an_impossible_split_is_an_error(counts):
    with pytest.raises(HistoError, match="cannot be split with both classes in train and in validation"):
        split_by_group(*layout(counts), 0.1, 0)


@given(st.integers(2, 200), st.integers(2, 200), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_a_random_split_takes_the_fraction_of_each_class(negatives, positives, fraction, seed):
    labels = np.random.default_rng(seed).permutation([0] * negatives + [1] * positives)
    val = split_random(labels, fraction, seed)
    for label, count in ((0, negatives), (1, positives)):
        held = int(val[labels == label].sum())
        assert 1 <= held <= count - 1
        assert abs(held - count * fraction) <= 1
    assert np.array_equal(val, split_random(labels, fraction, seed))


def test_another_seed_gives_another_split():
    labels = np.array([0, 1] * 50)
    assert not np.array_equal(split_random(labels, 0.5, 0), split_random(labels, 0.5, 1))


def test_a_single_patch_of_a_class_cannot_be_split():
    with pytest.raises(HistoError, match="class 0 has one patch, which cannot be in both splits"):
        split_random(np.array([0, 1]), 0.1, 0)
