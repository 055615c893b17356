"""The search for patches that show the same tissue: pairs that must be found, and pairs that must not."""

import csv
from itertools import combinations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.data.overlaps import MIN_OVERLAP, PAIR, _decode_pairs, _encode_pairs, find_overlaps, group_overlaps
from histocli.sources import SourceContext
from histocli.sources.kaggle import KaggleSource
from tests.data.tissue import crop, texture, tissue

FAR = 96 - MIN_OVERLAP  # the largest shift that still leaves the least overlap


def find_pairs(*stores):
    return {tuple(pair) for pair in find_overlaps([np.stack(store) for store in stores]).tolist()}


def find_true_pairs(places):
    """The pairs among places (image, y, x) that share at least 16x16 pixels."""
    return {
        (a, b, v - y, u - x)
        for (a, (first, y, x)), (b, (second, v, u)) in combinations(enumerate(places), 2)
        if first == second and abs(v - y) <= FAR and abs(u - x) <= FAR
    }


@given(st.data(), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_every_pair_that_overlaps_enough_is_found_and_no_other(data, seed):
    images = [texture((seed, i), 280) for i in range(2)]
    at = st.integers(0, 280 - 96)
    places = data.draw(st.lists(st.tuples(st.integers(0, 1), at, at), min_size=2, max_size=14))
    patches = [crop(images[i], y, x) for i, y, x in places]
    cut = data.draw(st.integers(1, len(places) - 1))
    assert find_pairs(patches) == find_pairs(patches[:cut], patches[cut:]) == find_true_pairs(places)


@pytest.mark.parametrize(("dy", "dx"), [(FAR, FAR), (-FAR, FAR), (0, FAR), (FAR, -3), (FAR - 1, -FAR), (1, 1), (0, 0)])
def test_the_smallest_overlap_is_found_in_every_direction(dy, dx):
    for seed in range(20):
        image = texture(seed)
        assert find_pairs([crop(image, 150, 150), crop(image, 150 + dy, 150 + dx)]) == {(0, 1, dy, dx)}


@pytest.mark.parametrize(("dy", "dx"), [(FAR + 1, 0), (0, -FAR - 1), (FAR + 1, FAR + 1), (96, 0)])
def test_a_smaller_overlap_is_not_a_pair(dy, dx):
    image = texture(0)
    assert find_pairs([crop(image, 150, 150), crop(image, 150 + dy, 150 + dx)]) == set()


@pytest.mark.parametrize("rows", [slice(0, 12), slice(36, 48), slice(0, 40)])
def test_different_tissue_in_a_quarter_of_the_overlap_is_not_a_pair(rows):
    image = texture(1)
    first, second = crop(image, 100, 100).copy(), crop(image, 148, 100).copy()
    assert find_pairs([first, second]) == {(0, 1, 48, 0)}
    second[rows] = crop(texture(2), 0, 0)[rows]
    assert find_pairs([first, second]) == set()


def compress(patch, quality=75):
    """Return the patch after JPEG compression, with colour at half the resolution."""
    return cv2.imdecode(cv2.imencode(".jpg", patch, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize("quality", [75, 95])
@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (64, -16), (-48, 48), (0, 64), (16, 32)])
def test_lossy_patches_are_found_if_they_are_shifted_by_whole_blocks(quality, dy, dx):
    patches = [crop(tissue(i), y, x) for i in range(4) for y, x in ((100, 100), (100 + dy, 100 + dx))]
    expected = {(a, a + 1, dy, dx) for a in range(0, 8, 2)}
    assert find_pairs([compress(patch, quality) for patch in patches]) == find_pairs(patches) == expected


def test_lossy_patches_with_other_shifts_are_not_found():
    patches = [crop(tissue(2), 100, 100), crop(tissue(2), 121, 133)]
    assert find_pairs(patches)
    assert find_pairs([compress(patch) for patch in patches]) == set()


def test_slightly_different_patches_are_found_if_one_block_is_equal():
    """Some of PCam's patches differ by one level in a few pixels before they are compressed."""
    image = tissue(3)
    first, second = crop(image, 100, 100), crop(image, 132, 116).copy()
    noise = np.random.default_rng(0).integers(-1, 2, second.shape)
    noise[:32, 48:] = 0
    second[:] = np.clip(second + noise, 0, 255)
    assert find_pairs([first, second]) == {(0, 1, 32, 16)}


@pytest.mark.parametrize("edge", [0, 128, 255])
def test_the_same_border_next_to_different_tissue_is_not_a_pair(edge):
    patches = [crop(tissue(i), 0, 0).copy() for i in range(6)]
    for patch in patches:
        patch[:64] = edge
        patch[8:24, 8:40] = crop(tissue(9), 0, 0)[8:24, 8:40]  # a label, say, that is in all scans
    assert find_pairs(patches) == set()
    assert find_pairs([compress(patch) for patch in patches]) == set()


def test_equal_background_is_not_a_pair():
    """Clear glass, slightly dirty glass, a border or corner of the scan, straight lines, and black."""
    glass = np.full((96, 96, 3), 243, np.uint8)
    border = glass.copy()
    border[:, 40:] = 0
    corner = border.copy()
    corner[:30] = 255
    faint = glass.copy()
    faint[::3, ::5] += 4
    lines = np.repeat(texture(0)[:1, :96], 96, 0)  # which coincide after any shift along them
    for alike in (glass, border, corner, faint, lines, np.zeros_like(glass)):
        assert find_pairs([alike, alike.copy(), np.roll(alike, 5, 0)]) == set()


def test_tissue_on_equal_background_is_a_pair_only_if_the_tissue_is_shared():
    patches = [np.full((96, 96, 3), 243, np.uint8) for _ in range(4)]
    for i, patch in enumerate(patches[:3]):
        patch[:, 60:] = crop(texture(i), 0, 0)[:, 60:]
    patches[3][:, 30:66] = patches[0][:, 60:]
    assert find_pairs(patches) == {(0, 3, 0, 30)}


def test_hundreds_of_copies_form_one_group():
    copy = np.full((96, 96, 3), 243, np.uint8)
    copy[40:60, 40:60] = texture(3)[:20, :20]
    pairs = find_overlaps([np.stack([copy] * 300 + [crop(texture(4), 0, 0)])])
    groups = group_overlaps(pairs, 301)
    assert len(set(groups[:300])) == 1
    assert groups[300] != groups[0]


def test_groups_are_joined_through_any_number_of_pairs():
    pairs = np.array([(0, 4, 1, 1), (2, 4, 0, 0), (1, 5, 3, 3)], PAIR)
    groups = group_overlaps(pairs, 6)
    assert [groups.tolist().index(group) for group in groups] == [0, 1, 0, 3, 0, 1]
    assert len(set(group_overlaps(pairs[:0], 3))) == 3


def test_no_patches_have_no_pairs():
    assert len(find_overlaps([])) == len(find_overlaps([np.zeros((1, 96, 96, 3), np.uint8)])) == 0


def test_progress_is_reported_until_the_end():
    image, reported = texture(5), []
    patches = np.stack([crop(image, 0, x) for x in range(0, 300, 30)] * 30)
    find_overlaps([patches, patches[:1]], lambda *stage: reported.append(stage))
    first = [stage for stage in reported if stage[0] == "reading patches"]
    assert [done for _, done, _ in first] == sorted(done for _, done, _ in first)
    assert first[-1] == ("reading patches", 301, 301)
    what, done, total = reported[-1]
    assert (what, done) == ("comparing pairs", total)


def test_all_known_overlaps_of_real_patches_are_found_without_false_ones(shared_data, tmp_path):
    source = KaggleSource(shared_data / "kaggle_layout.zip", SourceContext(tmp_path))
    loaded = [(patch.id, patch.load()) for patch in source.read_patches() if patch.split == "train"]
    ids, patches = [key for key, _ in loaded], np.stack([pixels for _, pixels in loaded])
    pairs = find_overlaps([patches])
    groups = dict(zip(ids, group_overlaps(pairs, len(ids)).tolist(), strict=True))
    with (shared_data / "kaggle_layout_overlaps.csv").open(newline="") as file:
        known = {}
        for row in csv.DictReader(file):
            known.setdefault(row["overlap_group"], set()).add(groups[row["id"]])
    assert len(known) == 60
    assert all(len(joined) == 1 for joined in known.values())
    for a, b, dy, dx in pairs.tolist():
        padded = np.full((3 * 96, 3 * 96, 3), -1)
        padded[96 + dy : 192 + dy, 96 + dx : 192 + dx] = patches[b]
        moved = padded[96:192, 96:192]
        inside = moved[..., 0] >= 0
        assert inside.sum() == (96 - abs(dy)) * (96 - abs(dx)) >= MIN_OVERLAP**2
        assert (moved[inside] == patches[a][inside]).all()


def test_the_numbers_of_sixteen_million_patches_can_be_in_pairs():
    a = np.array([0, 2**23, 2**24 - 3])
    codes = _encode_pairs(a << 14 | 80 << 7 | 16, (a + 1) << 14 | 8 << 7 | 20)  # a patch, and its row and column
    assert _decode_pairs(codes).tolist() == [(number, number + 1, 72, -4) for number in a]
