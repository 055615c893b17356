"""Groups of patches that look different, as those of two scanners do."""

import cv2
import numpy as np
import pandas as pd
import pytest

from histocli.data.appearance import find_appearance_groups


@pytest.fixture(scope="module")
def two_scanners():
    """60 patches of which every third was blurred and tinted, and labels that have nothing to do with it."""
    rng = np.random.default_rng(0)
    small = rng.integers(60, 230, (60, 24, 24, 3)).astype(np.uint8)
    pixels = np.stack([cv2.resize(patch, (96, 96), interpolation=cv2.INTER_CUBIC) for patch in small])
    pixels = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
    is_other = np.arange(60) % 3 == 0
    for i in np.flatnonzero(is_other):
        pixels[i] = np.clip(cv2.GaussianBlur(pixels[i], (0, 0), 1.5) * (1.0, 0.85, 1.05), 0, 255)
    return pixels, is_other, np.arange(60) // 2 % 2


def test_the_groups_are_the_scanners(two_scanners):
    pixels, is_other, labels = two_scanners
    groups = find_appearance_groups(pixels, np.arange(60), labels)
    assert groups.tolist() == is_other.astype(int).tolist()


def test_the_groups_are_not_the_classes():
    """Where the classes are all that differs, the groups have both of them."""
    rng = np.random.default_rng(1)
    labels = np.arange(80) % 2
    pixels = rng.integers(80, 160, (80, 96, 96, 3)).astype(np.uint8) + (40 * labels)[:, None, None, None].astype(
        np.uint8
    )
    groups = find_appearance_groups(pixels, np.arange(80), labels)
    assert 0 < labels[groups == 0].mean() < 1


def test_balance_keeps_each_group_in_one_split(empty, tmp_path, two_scanners):
    pixels, _, labels = two_scanners
    for i, label in enumerate(labels):
        folder = tmp_path / "patches" / ("tumor" if label else "normal")
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i:02}.png"), pixels[i][..., ::-1])
    empty("download", "--source", "folder", "--from", tmp_path / "patches", "--name", "mine")
    result = empty("balance", "--n", "max", "--group", "appearance")
    table = pd.read_csv(empty.root / "manifests" / "balanced.csv", dtype={"id": str})
    split_of = table.groupby("appearance")["split"].unique()
    assert sorted(len(splits) for splits in split_of) == [1, 1]
    number = table["id"].str.extract(r"(\d+)")[0].astype(int)
    assert set(table["appearance"][number % 3 == 0]) == {"B"}
    assert "two groups differ in sharpness and colour" in result.stderr
