"""Small copies of PCam's nine files."""

import gzip

import h5py
import numpy as np
import pytest

ROWS = {"train": 60, "valid": 20, "test": 20}
SLIDES = [
    "camelyon16_train_normal_033",
    "camelyon16_train_normal_150",
    "camelyon16_train_tumor_070",
    "camelyon16_test_001",
]
HOSPITALS = dict(zip(SLIDES, ["RUMC", "UMCU", "RUMC", ""], strict=True))


def file_name(split, kind):
    return f"camelyonpatch_level_2_split_{split}_{kind}"


def pixels_of(split):
    """Return random patches; the last five are copies of the first five."""
    rng = np.random.default_rng(list(ROWS).index(split))
    pixels = rng.integers(0, 256, (ROWS[split], 96, 96, 3), np.uint8)
    pixels[-5:] = pixels[:5]
    return pixels


def labels_of(split):
    return (np.arange(ROWS[split]) % 3 == 0).astype(np.uint8)


def slides_of(split):
    return [SLIDES[i % 4] for i in range(ROWS[split])]


def write_h5(path, name, values, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=values, **options)
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    path.unlink()


def write_meta(path, split, labels):
    lines = [",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"]
    pairs = zip(labels, slides_of(split), strict=True)
    lines += [f"{i},{i * 7},{i * 5},True,{bool(label)},{slide}" for i, (label, slide) in enumerate(pairs)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def pcam_files(tmp_path_factory):
    """Return the nine files as a dictionary from name to bytes."""
    folder = tmp_path_factory.mktemp("pcam")
    for split in ROWS:
        write_h5(folder / (file_name(split, "x") + ".h5"), "x", pixels_of(split))
        write_h5(folder / (file_name(split, "y") + ".h5"), "y", labels_of(split).reshape(-1, 1, 1, 1))
        write_meta(folder / (file_name(split, "meta") + ".csv"), split, labels_of(split))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def pcam_folder(tmp_path, pcam_files):
    """Return a folder with the nine files."""
    place = tmp_path / "pcam"
    place.mkdir()
    for name, data in pcam_files.items():
        (place / name).write_bytes(data)
    return place
